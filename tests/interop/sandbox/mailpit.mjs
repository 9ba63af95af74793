// A suite that was written against Mailpit's API, with the client of the package mailpit-api: unchanged against Mailpit and
// against `otp-relay demo`.
//   usage: node mailpit.mjs SMTP_ADDRESS HTTP_ADDRESS
import assert from "node:assert/strict";
import { MailpitClient } from "mailpit-api";
import nodemailer from "nodemailer";

const [smtp, http] = process.argv.slice(2);
const [host, port] = smtp.split(":");
const mailpit = new MailpitClient(`http://${http}`);
const transport = nodemailer.createTransport({ host, port: Number(port) });
const subjects = (found) => found.messages.map((message) => message.Subject);

async function until(what, check) {
  for (let tries = 0; tries < 200; tries += 1) {
    const seen = await check();
    if (seen) return seen;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`not within 10 s: ${what}`);
}

await mailpit.deleteMessages();
assert.equal((await mailpit.listMessages()).total, 0);
await transport.sendMail({
  from: { name: "Example Shop", address: "otp@shop.example" }, to: "Alice <alice@example.test>", subject: "481516 is your code",
  text: "Your code is 481516", html: "<p>Your code is <b>481516</b></p>", headers: { "X-Flow": "signup" },
});
const found = await until("a mail to alice", async () => {
  const seen = await mailpit.searchMessages({ query: "to:alice@example.test" });
  return seen.messages.length === 1 && seen;
});
const [{ ID: id, From: from, To: to, Read: read, Snippet: snippet, Attachments: attachments }] = found.messages;
assert.deepEqual([from, to, read, attachments], [{ Name: "Example Shop", Address: "otp@shop.example" },
  [{ Name: "Alice", Address: "alice@example.test" }], false, 0]);
assert.match(snippet, /Your code is 481516/);
console.log("ok: search, and the names of a summary");

const message = await mailpit.getMessageSummary(id);
assert.equal(message.ID, id);
assert.match(message.Text, /Your code is 481516/);
assert.match(message.HTML, /<b>481516<\/b>/);
assert.ok(message.MessageID && Date.parse(message.Date) && message.Size > 100);
assert.deepEqual([message.Cc, message.Bcc, message.Attachments, message.Inline], [[], [], [], []]);
assert.equal((await mailpit.getMessageSummary()).ID, id, "latest");
assert.deepEqual((await mailpit.getMessageHeaders(id))["X-Flow"], ["signup"]);
assert.match(await mailpit.getMessageSource(id), /^Subject: 481516 is your code\r?$/m);
assert.match(await mailpit.renderMessageText(), /Your code is 481516/);
assert.match(await mailpit.renderMessageHTML(), /<b>481516<\/b>/);
console.log("ok: a message, its headers, its source and its views");

await transport.sendMail({
  from: "otp@shop.example", to: ["bob@example.test", "carol@example.test"], subject: "With a file", text: "See there",
  attachments: [{ filename: "terms.txt", content: "Terms of service" }],
});
await until("a mail to carol", async () => (await mailpit.searchMessages({ query: "to:carol@example.test" })).messages.length === 1);
const all = await until("two messages", async () => {
  const seen = await mailpit.listMessages();
  return seen.total === 2 && seen;
});
assert.deepEqual(subjects(all), ["With a file", "481516 is your code"], "the newest first");
assert.equal(all.messages[0].Attachments, 1);
assert.deepEqual(subjects(await mailpit.listMessages(1, 1)), ["481516 is your code"]);
const file = (await mailpit.getMessageSummary()).Attachments[0];
assert.deepEqual([file.FileName, file.ContentType, file.Size], ["terms.txt", "text/plain", 16]);
for (const [query, count] of [["subject:code", 1], ["subject:\"with a file\"", 1], ["from:shop.example", 2], ["has:attachment", 1],
  ["to:bob@example.test subject:code", 0], ["-to:alice@example.test", 1], ["is:read", 2], ["to:nobody@example.test", 0]]) {
  assert.equal((await mailpit.searchMessages({ query })).messages_count, count, query);
}
console.log("ok: lists, pages, attachments and searches");

await mailpit.setReadStatus({ IDs: [id], Read: false });
assert.equal((await mailpit.listMessages()).unread, 1);
await mailpit.deleteMessages({ IDs: [id] });
assert.deepEqual(subjects(await mailpit.listMessages()), ["With a file"]);
await assert.rejects(mailpit.getMessageSummary(id));
await mailpit.deleteMessagesBySearch({ query: "to:bob@example.test" });
assert.equal((await mailpit.listMessages()).total, 0);
assert.equal((await fetch(`http://${http}/livez`)).status, 200);
assert.equal((await fetch(`http://${http}/readyz`)).status, 200);
console.log("ok: read and unread, removing, health");
process.exit(0);
