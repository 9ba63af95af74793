"use strict";
const by = (id) => document.getElementById(id);
// An element with a text or children; attributes are set one by one, so that nothing is ever read as markup.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const fill = (id, children) => by(id).replaceChildren(...children);
const ms = (value) => value === null || value === undefined ? "–" : value < 1000 ? value + " ms" : (value / 1000).toFixed(value < 10000 ? 1 : 0) + " s";
const seconds = (value) => value === null || value === undefined ? "–" : value < 120 ? value + " s" : Math.round(value / 60) + " min";
const clock = (text) => { const at = new Date(text); return isNaN(at) ? text : at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }); };
const share = ({ in_time, late }) => in_time + late === 0 ? null : 100 * in_time / (in_time + late);
const percent = (value) => value === null ? "–" : value === 100 ? "100 %" : (Math.floor(value * 10) / 10).toFixed(1) + " %";
let causes = new Map();
let stream = null;

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options, headers: { "X-OTP-Page": "1", "Content-Type": "application/json" } });
  if (answer.status === 401) { signedOut(); throw new Error("Sign in first."); }
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(body && body.detail || "The relay says " + answer.status + ".");
  return body;
}

function signedOut() {
  if (stream) { stream.close(); stream = null; }
  by("page").hidden = by("who").hidden = true;
  by("sign-in").hidden = false;
  by("live").textContent = "";
  by("token").focus();
}

function row(first, ...cells) {
  return make("tr", null, make("th", { scope: "row" }, first), ...cells.map((cell) => cell instanceof Node ? cell : make("td", null, String(cell))));
}

function show(data) {
  causes = new Map(data.causes.map((cause) => [cause.name, cause]));
  by("sign-in").hidden = true;
  by("page").hidden = by("who").hidden = false;
  by("name").textContent = data.who;
  document.querySelectorAll("[data-all]").forEach((section) => { section.hidden = !data.operator; });
  if (data.all) showAll(data.all);
}

function showAll(all) {
  const value = share(all.hour), before = all.yesterday && share(all.yesterday);
  by("share").textContent = percent(value);
  by("share").className = "large " + (value === null ? "" : value >= 99 ? "good" : value >= 95 ? "warn" : "bad");
  by("counts").textContent = all.hour.in_time + " in time, " + all.hour.late + " late or lost" + (before === null || before === undefined ? "" : "; the same hour yesterday " + percent(before));
  // The relay's own drawing, read as a document of its own: what is no drawing is not shown.
  const drawing = new DOMParser().parseFromString(all.chart, "image/svg+xml").documentElement;
  if (drawing.nodeName === "svg") fill("chart", [document.importNode(drawing, true)]);
  fill("times", all.chart_rows.map(([when, half, most]) => row(when, ms(half), ms(most))));
  fill("lanes", all.lanes.map((lane) => row(lane.lane, lane.entries, make("td", { class: lane.at_risk ? "bad" : "" }, String(lane.at_risk)), seconds(lane.oldest_s))));
  by("state").textContent = (all.able_to_store ? "" : "New mail cannot be stored. ") + "Sessions with mail hosts: " + all.sessions + ".";
  by("state").className = all.able_to_store ? "quiet" : "bad";
  fill("providers", all.providers.length ? all.providers.map((one) => row(one.name, one.delivered, ms(one.p50_ms), ms(one.p95_ms), make("td", { class: one.refused ? "bad" : "" }, String(one.refused)), one.failed, one.sessions, seconds(one.greylisted_s))) : [row("none yet", "–", "–", "–", "–", "–", "–", "–")]);
  fill("refusals", all.refusals.map((one) => make("li", null,
    make("p", null, make("strong", null, one.provider), " refused " + one.count + " times in 24 h: " + one.meaning),
    one.reply ? make("p", null, make("code", null, one.reply)) : null, make("p", { class: "quiet" }, (causes.get(one.cause) || {}).mend || ""))));
  const findings = all.findings || [];
  by("looked").textContent = all.findings === null ? "DNS was not looked at yet." : (findings.length ? "" : "Nothing is wrong. ") + "Looked at " + clock(all.looked_at) + "; once a day, otp-relay check at any time.";
  fill("findings", findings.map((one) => make("li", null,
    make("p", null, make("strong", { class: one.severity === "error" ? "bad" : one.severity === "warning" ? "warn" : "" }, one.severity), " " + one.check + ", " + one.subject + ": " + one.text),
    one.mend ? make("p", null, one.mend) : null, one.records.length ? make("pre", null, one.records.join("\n")) : null)));
  fill("hosts", all.smart_hosts.length ? all.smart_hosts.map(([name, state]) => make("li", null, name + ": " + state)) : [make("li", { class: "quiet" }, "None is configured.")]);
  showWebhooks(all.webhooks);
}

// Those that are behind, with why; one line says how many keep up.
function showWebhooks(webhooks) {
  const behind = webhooks.filter((one) => one.waiting > 0 || one.more_waiting || one.state !== "well");
  const keepUp = webhooks.length - behind.length;
  const rest = webhooks.length === 0 ? "None is configured." : keepUp === 0 ? "" : keepUp + " of " + webhooks.length + " have all events.";
  fill("webhooks", behind.map((one) => make("li", null,
    make("p", null, make("strong", { class: one.state === "well" ? "warn" : "bad" }, one.state === "gone" ? "gone" : "behind"), " " + one.url),
    make("p", null, (one.more_waiting ? "more than " : "") + (one.waiting === 1 ? "1 event waits" : one.waiting + " events wait") + (one.oldest ? ", the oldest since " + clock(one.oldest) : "")),
    one.answer ? make("p", null, "last answer: ", make("code", null, one.answer)) : null,
    one.state === "gone" ? make("p", { class: "quiet" }, "It answered 410; after a reload it is posted to again.") : null)).concat(rest ? [make("li", { class: "quiet" }, rest)] : []));
}

async function showSuppressed() {
  const list = await ask("/v1/suppressions");
  const today = list.suppressions.filter((one) => Date.now() - new Date(one.since) < 86400000).slice(0, 50);
  by("suppressed-none").hidden = today.length > 0;
  fill("suppressed", today.map((one) => {
    const button = make("button", { type: "button", class: "plain", "aria-label": "Send to " + one.address + " again" }, "Undo");
    button.addEventListener("click", async () => {
      button.disabled = true;
      try { await ask("/v1/suppressions/" + encodeURIComponent(one.address), { method: "DELETE" }); await showSuppressed(); say(one.address + " is sent to again."); }
      catch (error) { button.disabled = false; say(error.message); }
    });
    return make("li", null, make("p", null, make("strong", null, one.address), " since " + clock(one.since)), make("p", null, make("code", null, one.reason)), button);
  }));
}

const say = (text) => { by("live").textContent = text; };

async function refresh() {
  try {
    const data = await ask("/page/data");
    if (data.who === null) { signedOut(); return false; }
    show(data);
    if (data.operator) await showSuppressed();
    if (!stream) follow();
    return true;
  } catch (error) { if (by("sign-in").hidden) say(error.message); return false; }
}

// At most one look a second, and one when it is quiet again.
let due = null;
function soon() { if (due === null) due = setTimeout(() => { due = null; refresh(); }, 1000); }
function follow() {
  stream = new EventSource("/v1/events");
  stream.onopen = () => say("Live.");
  stream.onerror = () => say("The connection to the relay is lost; trying again.");
  const kinds = ["accepted", "queued", "attempted", "deferred", "greylisted", "at_risk", "delivered", "failed", "expired", "superseded", "cancelled", "bounced", "complained", "verified", "missed", "message"];
  kinds.forEach((kind) => stream.addEventListener(kind, soon));
}

function timeline(message) {
  const events = message.events || [];
  return make("ol", { class: "timeline" }, ...events.filter((event) => event.event !== "queued").map((event) => {
    const cause = causes.get(event.cause);
    return make("li", null,
      make("p", null, make("time", { datetime: event.time }, clock(event.time)), " ", make("strong", null, event.event.replace("_", " ")), event.destination ? " at " + event.destination : "", event.recipient && message.entries.length > 1 ? " (" + event.recipient + ")" : ""),
      event.reply ? make("p", null, make("code", null, event.reply)) : null,
      cause ? make("p", null, cause.meaning) : null, cause ? make("p", { class: "quiet" }, cause.mend) : null,
      event.next_attempt_at ? make("p", { class: "quiet" }, "next attempt at " + clock(event.next_attempt_at) + (event.plan ? ": " + event.plan : "")) : null,
      event.note ? make("p", { class: "quiet" }, event.note) : null);
  }));
}

function shown(message, whole) {
  const states = message.entries.map((entry) => entry.recipient + ": " + entry.state + (entry.at_risk && entry.state !== "delivered" ? ", at risk" : ""));
  const details = make("details", null, make("summary", null, states.join("; ") + ", accepted at " + clock(message.accepted_at)));
  const body = make("div", null, make("p", { class: "quiet" }, message.id + ", lane " + message.lane + ", user " + message.user + ", expires at " + clock(message.expires_at)));
  details.append(body);
  let loaded = false;
  const load = async () => {
    if (loaded) return;
    loaded = true;
    try { body.append(timeline(await ask("/v1/messages/" + message.id))); } catch (error) { body.append(make("p", null, error.message)); }
  };
  details.addEventListener("toggle", () => { if (details.open) load(); });
  if (whole) { details.open = true; load(); }
  return make("div", { class: "message" }, details);
}

async function find(event) {
  event.preventDefault();
  const wanted = by("find").value.trim();
  fill("found", [make("p", { class: "quiet" }, "Looking …")]);
  try {
    const messages = wanted.includes("@") ? (await ask("/v1/messages?recipient=" + encodeURIComponent(wanted))).messages : [await ask("/v1/messages/" + encodeURIComponent(wanted))];
    fill("found", messages.length ? messages.map((message, at) => shown(message, at === 0)) : [make("p", null, "No message to " + wanted + " is known.")]);
  } catch (error) { fill("found", [make("p", null, error.message)]); }
}

by("find-form").addEventListener("submit", find);
by("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  by("refused").textContent = "";
  const answer = await fetch("/page/session", { method: "POST", headers: { "X-OTP-Page": "1", "Content-Type": "application/json" }, body: JSON.stringify({ token: by("token").value }) });
  by("token").value = "";
  if (answer.ok) { await refresh(); by("find").focus(); } else { by("refused").textContent = "This is not a token of the relay."; by("token").focus(); }
});
by("out").addEventListener("click", async () => { try { await ask("/page/session", { method: "DELETE" }); } finally { signedOut(); } });
refresh();
// Ages and the chart move on also where nothing happens.
setInterval(() => { if (stream) soon(); }, 60000);
