// The tests of suite.py in JavaScript: twenty side by side against `otp-relay demo`, each with addresses of its own.
//   usage: node suite.mjs SMTP_ADDRESS HTTP_ADDRESS [RUNS]
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import nodemailer from "nodemailer";

const [smtp, http, runs = "1"] = process.argv.slice(2);
const HTTP = `http://${http}`;
const [host, port] = smtp.split(":");

async function ask(method, path, body, accept = "application/json") {
  const headers = { Authorization: "Bearer any", "Content-Type": "application/json", Accept: accept };
  const answer = await fetch(HTTP + path, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, text: await answer.text() };
}

const address = (words = "user") => `${words}.${randomUUID()}@example.test`;

async function code(to, query = {}) {
  const { status, text } = await ask("GET", `/sandbox/code?${new URLSearchParams({ to, wait: "60s", ...query })}`);
  assert.equal(status, 200, `${to}: ${text}`);
  return JSON.parse(text);
}

async function send(to, { text = "Your code is 481516", auth = { user: "any", pass: "thing" } } = {}) {
  const transport = nodemailer.createTransport({ host, port: Number(port), auth });
  await transport.sendMail({ from: "otp@shop.example", to, subject: "Sign in", text });
}

const post = (to, more) => ask("POST", "/v1/messages", { from: "otp@shop.example", to, otp: { code: "481516", app: "Shop" }, ...more });

async function ended(to, more) {
  const { status, text } = await post(to, { wait: "delivered", ...more });
  assert.equal(status, 200, `${to}: ${text}`);
  return JSON.parse(text).entries[0];
}

const tests = {
  async "code by SMTP"() {
    const to = address();
    await send(to);
    const answer = await code(to);
    assert.deepEqual([answer.code, answer.signed, answer.attempts], ["481516", true, 1]);
  },
  async "code by SMTP without login"() {
    const to = address();
    await send(to, { auth: undefined });
    assert.equal((await code(to)).code, "481516");
  },
  async "code by HTTP"() {
    const to = address();
    assert.equal((await post(to)).status, 202);
    assert.equal((await code(to)).subject, "481516 is your code for Shop");
  },
  async "the state is known with the code"() {
    const to = address();
    const { id } = JSON.parse((await post(to)).text);
    assert.equal((await code(to)).message, id);
    assert.equal(JSON.parse((await ask("GET", `/v1/messages/${id}`)).text).entries[0].state, "delivered");
  },
  async "link"() {
    const to = address();
    await send(to, { text: "Sign in: https://shop.example/magic?token=abcdef0123456789" });
    assert.equal((await code(to)).link, "https://shop.example/magic?token=abcdef0123456789");
  },
  async "plain text"() {
    const to = address();
    await post(to);
    assert.deepEqual(await ask("GET", `/sandbox/code?to=${to}&wait=60s`, undefined, "text/plain"), { status: 200, text: "481516" });
  },
  async "two groups of digits"() {
    const to = address();
    await send(to, { text: "Ihr Code: 123 456" });
    assert.equal((await code(to)).code, "123456");
  },
  async "second code"() {
    const to = address();
    await send(to);
    const first = await code(to);
    await send(to, { text: "Your code is 918273" });
    assert.equal((await code(to, { after: first.id })).code, "918273");
  },
  async "tag"() {
    const to = address();
    await post(to, { tag: "signup" });
    assert.equal((await code(to, { tag: "signup" })).code, "481516");
  },
  async "greylisted"() {
    const to = address("greylisted-5s");
    await send(to);
    assert.equal((await code(to)).attempts, 2);
  },
  async "busy"() {
    const to = address("busy-1");
    await send(to);
    assert.equal((await code(to)).attempts, 2);
  },
  async "clear text"() {
    const to = address("notls");
    await send(to);
    assert.equal((await code(to)).code, "481516");
  },
  async "bad certificate"() {
    const to = address("badtls");
    await send(to);
    assert.equal((await code(to)).code, "481516");
  },
  async "hidden"() {
    const to = address("hidden");
    assert.equal((await ended(to)).state, "delivered");
    const { status, text } = await ask("GET", `/sandbox/code?to=${to}`);
    assert.deepEqual([status, JSON.parse(text).arrived[0].hidden], [404, true]);
  },
  async "unknown"() {
    const { state, cause } = await ended(address("unknown"));
    assert.deepEqual([state, cause], ["failed", "bad_mailbox"]);
  },
  async "spam"() {
    const { state, cause } = await ended(address("spam"));
    assert.deepEqual([state, cause], ["failed", "content_rejected"]);
  },
  async "full"() {
    // On a machine that is busy, its four seconds may pass before the second try.
    const { state } = await ended(address("full"), { life: 40 });
    assert.match(state, /^(failed|expired)$/);
  },
  async "no such domain"() {
    await assert.rejects(send(address("nodomain")), { responseCode: 550 });
  },
  async "suppressed and budget"() {
    assert.equal((await post(address("suppressed"))).status, 422);
    assert.equal((await post(address("budget"))).status, 429);
  },
  async "messages are removed"() {
    const to = address();
    await send(to);
    await code(to);
    assert.deepEqual(JSON.parse((await ask("DELETE", `/sandbox/messages?to=${to}`)).text), { removed: 1 });
    assert.equal((await ask("GET", `/sandbox/code?to=${to}`)).status, 404);
  },
};

assert.equal(Object.keys(tests).length, 20);
let failed = 0;
for (let run = 1; run <= Number(runs); run += 1) {
  await Promise.all(Object.entries(tests).map(async ([name, test]) => {
    try {
      await test();
    } catch (error) {
      failed += 1;
      console.log(`run ${run}: ${name}: ${error.message}`);
    }
  }));
}
console.log(`${Number(runs) * 20 - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
