// Zyotra Auth from a page whose session is in cookies.

export const AUTH = "https://auth.example.com"; // "/auth" behind a gateway on the page's own host

// call is fetch with the session's cookies, for AUTH and for APIs behind its gateway. If the
// access token has run out, it gets a new one and asks once more. What comes back with 401
// is final: the person has to log in. init.body must be one that can be sent twice.
export async function call(url, init) {
  const ask = () => fetch(url, { ...init, credentials: "include" });
  const answer = await ask();
  if (answer.status !== 401 || (await code(answer)) === "invalid_credentials") return answer;
  const renewed = await refresh();
  return renewed.ok ? ask() : renewed.clone();
}

export const login = (email, password) =>
  call(`${AUTH}/login`, json("POST", { email, password, carrier: "cookie" }));

export const logout = () => call(`${AUTH}/logout`, { method: "POST" });

// json is the init of a request that has a body.
export const json = (method, body) => ({
  method,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

// code tells why a request was refused, if the answer is authd's own.
const code = async (answer) => (await answer.clone().json().catch(() => ({}))).code;

let refreshing; // under way, for all calls of this page

// refresh renews the cookies: one page of this origin at a time, in whatever tab it is.
function refresh() {
  refreshing ??= navigator.locks
    .request("zyotra-refresh", () => fetch(`${AUTH}/refresh`, { ...json("POST", {}), credentials: "include" }))
    .finally(() => (refreshing = undefined));
  return refreshing;
}
