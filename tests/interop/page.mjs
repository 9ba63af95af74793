// The page as people use it, at two widths and in two schemes.
import { readFileSync } from "node:fs";
import puppeteer from "puppeteer-core";

const [base, token, shots] = process.argv.slice(2);
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");
const browser = await puppeteer.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
let failed = 0;
function check(holds, what) { console.log((holds ? "ok: " : "WRONG: ") + what); failed += holds ? 0 : 1; }

for (const [width, scheme] of [[360, "light"], [360, "dark"], [1280, "light"], [1280, "dark"]]) {
  const began = Date.now();
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const elsewhere = [], complaints = [];
  page.on("request", (request) => { if (!request.url().startsWith(base)) elsewhere.push(request.url()); });
  page.on("console", (message) => { if (message.type() === "error" && !/401/.test(message.text())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.setViewport({ width, height: 800 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(base + "/");
  await page.waitForSelector("#sign-in:not([hidden])");
  await page.type("#token", token);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#page:not([hidden])");
  await page.waitForFunction(() => document.querySelector("#chart svg") && document.querySelector("#providers tr"));
  check((await context.cookies()).some((cookie) => cookie.name === "otp_relay_token" && cookie.httpOnly && cookie.sameSite === "Strict"), `${width} ${scheme}: the cookie is HttpOnly and SameSite=Strict`);
  check(await page.evaluate(() => document.activeElement.id) === "find", `${width} ${scheme}: the search has the focus`);
  // One action: to type. Two: Enter. The newest code's timeline is then open.
  await page.keyboard.type("user3@example.net");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => /250/.test(document.querySelector("#found .timeline")?.textContent || ""), { timeout: 5000 });
  const tookMs = Date.now() - began;
  check(tookMs < 10000, `${width} ${scheme}: a code is found with its reply in two actions behind the sign-in, ${tookMs} ms after the page was opened`);
  check(await page.evaluate(() => /127\.0\.0\.1:1\/hook/.test(document.querySelector("#webhooks").textContent) && !/secret/.test(document.body.textContent)), `${width} ${scheme}: a webhook that is behind is told, without its query`);
  check(await page.evaluate(() => [...document.querySelectorAll("#page h2")].map((one) => one.textContent.split(",")[0]).join("|")) === "Codes in time|Now|Providers|Find a code|Findings|Suppressed today|Smart hosts|Webhooks", `${width} ${scheme}: the parts are in their order`);
  check(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${width} ${scheme}: nothing is wider than the window`);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] }));
  check(violations.length === 0, `${width} ${scheme}: axe-core has ${violations.length} findings ` + violations.map((one) => `${one.id} (${one.impact}) ${one.nodes[0].target}`).join(", "));
  await page.screenshot({ path: `${shots}/page-${width}-${scheme}.png`, fullPage: true });
  check(elsewhere.length === 0 && complaints.length === 0, `${width} ${scheme}: nothing from elsewhere, no error ${elsewhere} ${complaints}`);
  if (width === 360 && scheme === "light") {
    const before = await page.$eval("#counts", (element) => element.textContent);
    await fetch(base + "/v1/messages", { method: "POST", headers: { Authorization: "Bearer " + token, "Content-Type": "application/json" }, body: JSON.stringify({ from: "otp@app.test", to: "live@example.net", otp: { code: "1" } }) });
    await page.waitForFunction((before) => document.querySelector("#counts").textContent !== before, { timeout: 8000 }, before);
    check(true, "a code that is sent meanwhile shows by itself");
  }
  if (width === 1280 && scheme === "dark") {
    await page.focus("#suppressed button");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#suppressed li").length === 0, { timeout: 5000 });
    check(true, "a suppression is undone by keyboard");
    await page.click("#out");
    await page.waitForSelector("#sign-in:not([hidden])");
    check((await context.cookies()).every((cookie) => cookie.name !== "otp_relay_token" || cookie.value === ""), "after sign-out the cookie is gone");
  }
  await context.close();
}
await browser.close();
process.exit(failed ? 1 : 0);
