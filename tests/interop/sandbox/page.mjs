// Looks at the sandbox's page as people do: on a telephone and on a desk, light and dark.
//   usage: node page.mjs HTTP_ADDRESS FOLDER
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [http, folder] = process.argv.slice(2);
const origin = `http://${http}`;
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const headers = { Authorization: "Bearer any", "Content-Type": "application/json" };
const post = (body) => fetch(`${origin}/v1/messages`, { method: "POST", headers, body: JSON.stringify(body) });
const faults = [];
const pictures = [];

async function look(name, width, colorScheme, act) {
  const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme });
  page.on("console", (message) => message.type() === "error" && faults.push(`${name}: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`${name}: ${error}`));
  await page.goto(origin);
  await page.locator("#state.live").waitFor();
  await act(page);
  const seen = await page.evaluate(() => document.documentElement.scrollWidth);
  if (seen > width) faults.push(`${name}: ${seen} px wide`);
  await page.screenshot({ path: `${folder}/${name}-${width}-${colorScheme}.png`, fullPage: true });
  pictures.push(name);
  await page.close();
}

async function openMail(page) {
  await page.locator(".mail", { hasText: "alice" }).click();
  await page.locator("#code", { hasText: "481516" }).waitFor();
  await page.locator("#timeline li.delivered").waitFor();
}

await fetch(`${origin}/sandbox/messages`, { method: "DELETE" });
for (const width of [360, 1280]) {
  for (const scheme of ["light", "dark"]) {
    await look("empty", width, scheme, (page) => page.locator("#empty").waitFor());
  }
}
// A mail comes while the page is open, with a script that must not run.
await look("arriving", 1280, "light", async (page) => {
  await post({ from: "otp@shop.example", to: "eve@example.test", subject: "918273 is your code", text: "918273",
    html: "<p>918273</p><script>parent.document.title = 'taken'</script><img src='https://example.com/x.png'>" });
  await page.locator(".mail", { hasText: "eve" }).waitFor();
  await page.frameLocator("iframe").locator("p", { hasText: "918273" }).waitFor();
  assert.equal(await page.title(), "otp-relay sandbox");
});
faults.splice(0, faults.length, ...faults.filter((fault) => !/Blocked script execution|Content Security Policy/.test(fault)));
await post({ from: "otp@shop.example", to: "greylisted-5s.alice@example.test", otp: { code: "481516", app: "Shop" }, tag: "signup" });
await post({ from: "otp@shop.example", to: "a.very.long.address.that.does.not.fit.a.telephone@some-long-domain.example.test", otp: { code: "0042" } });
await fetch(`${origin}/sandbox/code?to=greylisted-5s.alice@example.test&wait=60s`);
for (const width of [360, 1280]) {
  for (const scheme of ["light", "dark"]) {
    await look("list", width, scheme, (page) => page.locator(".mail").first().waitFor());
    await look("mail", width, scheme, openMail);
  }
}
for (const tab of ["Text", "Headers", "Source", "Signatures"]) {
  await look(tab.toLowerCase(), 360, "light", async (page) => {
    await openMail(page);
    await page.getByRole("tab", { name: tab }).click();
    const expected = { Text: "481516", Headers: "DKIM-Signature", Source: "DKIM-Signature: ", Signatures: "verified" }[tab];
    await page.locator("#view", { hasText: expected }).waitFor();
  });
}
await look("copied", 1280, "light", async (page) => {
  await openMail(page);
  await page.locator("#copy").click();
  await page.locator("#copy", { hasText: /Copied|Selected/ }).waitFor();
});
await browser.close();
assert.deepEqual(faults, []);
console.log(`${pictures.length} pictures, nothing wider than the window, no error`);
