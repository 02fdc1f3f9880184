-- The folded keys stay: lower-casing them again changes none that is not already the same.
SELECT 1;
