// Handles access tokens as the ancestor and its services did. Reads one JSON array of
// {verify,secret} and {sign,secret}; writes one of {userId}, {token} or {error}.
const { readFileSync } = require("node:fs");
const jwt = require("jsonwebtoken");

function answer({ verify, sign, secret }) {
  if (sign) {
    return { token: jwt.sign({ userId: sign }, secret, { expiresIn: "15m" }) };
  }
  try {
    const payload = jwt.verify(verify, secret);
    return { userId: payload.userId };
  } catch (error) {
    return { error: error.name };
  }
}

const questions = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(questions.map(answer)));
