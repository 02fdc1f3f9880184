// Does what the link of a mail is for, once its reader says so. The token stands behind the #,
// which browsers keep to themselves: it is in no log and no Referer.
"use strict";

const form = document.querySelector("form");
const button = form.querySelector("button");
const status = document.querySelector("[role=status]");
const link = new URLSearchParams(location.hash.slice(1));
const token = link.get("token");
const asked = form.querySelector("fieldset"); // what belongs to the password, if the page may ask for one
const password = form.querySelector("[type=password]");

if (asked) {
  form.elements.username.value = link.get("email") || ""; // for password managers
  form.elements.username.closest("label").hidden = !link.get("email");
}

const faults = {
  invalid_token: "This link is not good any more: it was used, has expired, or there is a newer one.",
  email_taken: "Another account has this address by now.",
  reauthentication_required: "Give the password of your account.",
  invalid_credentials: "This is not the password of your account.",
  conflict: "The account has just changed. Try again.",
  rate_limited: "That was too often. Wait a while, then try again.",
};

const reasons = {
  required: "Give a password.",
  too_short: "This password is too short.",
  too_long: "This password is too long.",
  too_common: "This password is too common.",
  contains_context: "This password is too close to your address or name.",
  not_unicode: "This password has characters that cannot be used.",
};

function explain(problem) {
  const field = password && (problem.fields || []).find(one => one.field === password.name);
  if (field && problem.code === "validation_failed" && reasons[field.reason]) return reasons[field.reason];
  return faults[problem.code] || "That did not work. Try again later.";
}

// ask shows the fields of the password.
function ask() {
  asked.hidden = asked.disabled = false;
  password.focus();
}

async function send() {
  const body = {token};
  if (password && !asked.disabled) {
    body[password.name] = password.value;
  }
  const answer = await fetch(form.dataset.action, {
    method: "POST",
    credentials: form.dataset.credentials,
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(body),
  });
  if (answer.ok) return;
  const problem = await answer.json();
  if (asked && problem.code === "reauthentication_required") ask();
  throw new Error(explain(problem));
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  button.disabled = true;
  status.textContent = "";
  try {
    await send();
    form.hidden = true;
    history.replaceState(null, "", location.pathname);
    status.textContent = form.dataset.done;
  } catch (error) {
    button.disabled = false;
    status.textContent = error instanceof TypeError ? "The service cannot be reached. Try again later." : error.message;
  }
});

if (!token) {
  button.disabled = true;
  status.textContent = "This link is not complete. Copy all of it from the mail.";
}
