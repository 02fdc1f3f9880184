-- Addresses are compared by Unicode's full case folding, no longer by their lower case. SQL cannot
-- fold: refold.go writes the new keys in this step's transaction.
SELECT 1;
