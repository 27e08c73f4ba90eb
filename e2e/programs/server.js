// Keeps what is PUT to a path and answers GET with it; digests everything in the pool of threads, and lets timers run,
// meanwhile. `node --eval THIS PORT`. Ends with 1 when its world is not as it should be.
const crypto = require("crypto");
const fs = require("fs");
const http = require("http");

const entries = new Map();

function fail(what) {
  console.error(what);
  process.exit(1);
}

function pooled(text) {
  return new Promise((resolve, reject) =>
    crypto.pbkdf2(text, "salt", 10, 32, "sha256", (error, key) => (error ? reject(error) : resolve(key))));
}

async function answer(request, response) {
  if (request.method === "GET") {
    const entry = entries.get(request.url);
    if (entry === undefined) return response.writeHead(404).end();
    if (!(await pooled(entry.text)).equals(entry.key)) fail("another digest of " + request.url);
    return response.writeHead(200, { "Content-Length": entry.text.length }).end(entry.text);
  }
  let text = "";
  for await (const chunk of request) text += chunk;
  entries.set(request.url, { text, key: await pooled(text) });
  await fs.promises.readFile("/proc/self/stat");
  response.writeHead(200, { "Content-Length": 6 }).end("stored");
}

const server = http.createServer((request, response) => answer(request, response).catch(error => fail(error)));
server.keepAliveTimeout = 0;
server.listen(Number(process.argv[1]), "127.0.0.1");

let last = process.hrtime.bigint();
setInterval(() => {
  const now = process.hrtime.bigint();
  if (now < last) fail("time runs backwards");
  last = now;
}, 5);

process.on("SIGTERM", () => process.exit(0));
