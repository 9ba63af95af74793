// webhooks.mjs POSTS PATH SECRET: each post to PATH is verified by npm's standardwebhooks.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const [posts, path, secret] = process.argv.slice(2);
const lines = readFileSync(posts, "utf8").split("\n").filter((line) => line.endsWith("}")).map((line) => JSON.parse(line));
let verified = 0;
for (const post of lines.filter((line) => line.path === path)) {
  new Webhook(secret).verify(Buffer.from(post.body, "base64").toString("utf8"), post.headers);
  verified += 1;
}
if (verified === 0) {
  throw new Error("no posts");
}
console.log(`${verified} posts verified by standardwebhooks (npm)`);
