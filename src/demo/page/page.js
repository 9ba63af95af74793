"use strict";

const MAILS_MAX = 200;
const byId = (id) => document.getElementById(id);
const wide = window.matchMedia("(min-width: 46.01rem)");
let mails = [];
let shown = null;
let view = null;
let asked = 0;

function made(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}

async function json(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

const clock = (text) => new Date(text).toLocaleTimeString();

function span(ms) {
  return ms < 1000 ? `${ms} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60000)} min`;
}

function badges(mail) {
  const all = [];
  if (mail.hidden) all.push("hidden");
  if (mail.lost) all.push("lost");
  if (mail.attempts > 1) all.push(`${mail.attempts} attempts`);
  if (!mail.signed) all.push("not signed");
  if (mail.tag) all.push(mail.tag);
  return all;
}

function card(mail) {
  const button = made("button", "mail");
  button.type = "button";
  if (shown && shown.id === mail.id) button.setAttribute("aria-current", "true");
  button.append(made("span", "to", mail.to), made("span", "when", clock(mail.received_at)));
  button.append(made("span", "subject", mail.subject || "(no subject)"));
  button.append(made("span", "short", mail.code || (mail.link ? "link" : "")));
  const words = badges(mail);
  if (words.length) {
    const row = made("span", "badges");
    row.append(...words.map((word) => made("span", "badge", word)));
    button.append(row);
  }
  button.addEventListener("click", () => open(mail.id));
  return button;
}

function draw() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const fits = (mail) => !wanted || `${mail.to} ${mail.subject}`.toLowerCase().includes(wanted);
  byId("list").replaceChildren(...mails.filter(fits).map(card));
  byId("empty").hidden = mails.length > 0;
  byId("detail").hidden = !shown;
}

function fact(name, value, kind) {
  return value ? [made("dt", "", name), made("dd", kind || "", value)] : [];
}

function signatures(mail) {
  if (!mail.signatures.length) return made("p", "", "This mail has no signatures.");
  const table = made("table");
  for (const one of mail.signatures) {
    const row = made("tr");
    row.append(made("th", "", `d=${one.domain} s=${one.selector}`));
    row.append(made("td", one.passed ? "good" : "bad", one.passed ? "verified" : one.error));
    table.append(row);
  }
  return table;
}

function headers(mail) {
  const table = made("table");
  for (const field of mail.headers) {
    const row = made("tr");
    row.append(made("th", "", field.name), made("td", "", field.value));
    table.append(row);
  }
  return table;
}

function frame(mail) {
  const element = made("iframe");
  element.setAttribute("sandbox", "");
  element.title = "The mail as HTML";
  element.src = `/sandbox/messages/${encodeURIComponent(mail.id)}/html`;
  return element;
}

function views(mail) {
  const all = {};
  if (mail.html) all.HTML = () => frame(mail);
  all.Text = () => made("pre", "", mail.text || "(no text part)");
  all.Headers = () => headers(mail);
  all.Source = () => {
    const pre = made("pre", "", "");
    fetch(`/sandbox/messages/${encodeURIComponent(mail.id)}/raw`).then((answer) => answer.text()).then((text) => { pre.textContent = text; });
    return pre;
  };
  all.Signatures = () => signatures(mail);
  return all;
}

function drawView(mail) {
  const all = views(mail);
  if (!all[view]) view = Object.keys(all)[0];
  byId("tabs").replaceChildren(...Object.keys(all).map((name) => {
    const tab = made("button", "", name);
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(name === view));
    tab.addEventListener("click", () => { view = name; drawView(mail); });
    return tab;
  }));
  byId("view").replaceChildren(all[view]());
}

function step(event) {
  const item = made("li", event.event);
  item.append(made("b", "", event.event.replace("_", " ")), made("time", "", `+${span(event.ms)}`));
  const said = [event.reply, event.next_attempt_at ? `again at ${clock(event.next_attempt_at)}` : "", event.plan, event.note];
  for (const text of said.filter(Boolean)) item.append(made("span", "said", text));
  return item;
}

async function drawTimeline(mail) {
  const number = ++asked;
  const list = byId("timeline");
  if (!mail.message) {
    list.replaceChildren(made("li", "", "The relay wrote this mail itself."));
    return;
  }
  try {
    const message = await json(`/v1/messages/${mail.message}`, { headers: { Authorization: "Bearer page" } });
    if (number !== asked) return;
    const own = (event) => !event.recipient || event.recipient.toLowerCase() === mail.to.toLowerCase();
    list.replaceChildren(...(message.events || []).filter(own).map(step));
  } catch (error) {
    list.replaceChildren(made("li", "", "No trace is kept of this message."));
  }
}

async function open(id) {
  const mail = await json(`/sandbox/messages/${encodeURIComponent(id)}`);
  shown = mail;
  byId("hero").hidden = !mail.code && !mail.link;
  byId("code-label").textContent = mail.code ? "Code" : "Link";
  byId("code").textContent = mail.code || "";
  byId("copy").textContent = "Copy";
  byId("link").textContent = mail.link || "";
  if (mail.link) byId("link").href = mail.link; else byId("link").removeAttribute("href");
  byId("subject").textContent = mail.subject || "(no subject)";
  const verdict = mail.signatures.length ? (mail.signed ? "all verified" : "not all verified") : "none";
  const tls = { on: "TLS", off: "in clear text", bad_certificate: "TLS with a bad certificate" }[mail.tls];
  byId("facts").replaceChildren(
    ...fact("From", mail.from), ...fact("To", mail.to), ...fact("Received", `${clock(mail.received_at)}, attempt ${mail.attempts}, ${tls}`),
    ...fact("Signatures", verdict, mail.signed ? "good" : "bad"), ...fact("Marked", badges(mail).filter((word) => word === "hidden" || word === "lost").join(", ")));
  document.querySelector("main").classList.add("open");
  drawView(mail);
  draw();
  if (!wide.matches) window.scrollTo(0, 0);
  await drawTimeline(mail);
}

async function load() {
  mails = (await json("/sandbox/messages")).messages.slice(0, MAILS_MAX);
  if (shown && !mails.some((mail) => mail.id === shown.id)) {
    shown = null;
    document.querySelector("main").classList.remove("open");
  }
  if (!shown && mails.length && wide.matches) await open(mails[0].id);
  draw();
}

function follow() {
  const stream = new EventSource("/sandbox/inboxes/*/stream");
  stream.addEventListener("open", () => { byId("state").textContent = "live"; byId("state").className = "live"; load(); });
  stream.addEventListener("error", () => { byId("state").textContent = "not connected"; byId("state").className = ""; });
  stream.addEventListener("mail", (event) => {
    const mail = JSON.parse(event.data);
    mails = [mail, ...mails.filter((other) => other.id !== mail.id)].slice(0, MAILS_MAX);
    if (!shown && wide.matches) open(mail.id); else draw();
    // What the relay says of it comes a moment later.
    if (shown && shown.message === mail.message) setTimeout(() => drawTimeline(shown), 500);
  });
}

byId("filter").addEventListener("input", draw);
byId("search").addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", async () => {
  await fetch("/sandbox/messages", { method: "DELETE" });
  await load();
});
byId("back").addEventListener("click", () => { shown = null; document.querySelector("main").classList.remove("open"); draw(); });
byId("copy").addEventListener("click", async () => {
  const text = shown.code || shown.link;
  try {
    await navigator.clipboard.writeText(text);
    byId("copy").textContent = "Copied";
  } catch (error) {
    const range = document.createRange();
    range.selectNodeContents(shown.code ? byId("code") : byId("link"));
    window.getSelection().removeAllRanges();
    window.getSelection().addRange(range);
    byId("copy").textContent = "Selected";
  }
});
byId("example").textContent = `curl -H 'Authorization: Bearer any' -H 'Content-Type: application/json' ${location.origin}/v1/messages \\\n`
  + `  -d '{"from": "otp@shop.example", "to": "alice@example.test", "otp": {"code": "481516", "app": "Shop"}}'`;
follow();
