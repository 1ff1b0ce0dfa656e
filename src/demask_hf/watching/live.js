"use strict";

// The page of a server: sends a prompt, once for each strategy, and shows the frames of the traces as they come.

const player = new Player();
const field = (id) => byId(id).value;
let controller = null;

/** Ask the server; the key stays in this page. */
async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (field("key")) headers.Authorization = `Bearer ${field("key")}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) byId("with-key").hidden = false;
  const answer = await response.json().catch(() => null);
  throw new Error(answer?.error?.message ?? `The server answers with status ${response.status}.`);
}

/** Read what the server offers. */
async function readFacts() {
  const { data } = await (await ask("v1/models")).json();
  const facts = data[0].demask;
  const options = () => facts.strategies.map((name) => make("option", {}, name));
  byId("strategy").replaceChildren(...options());
  byId("compare").replaceChildren(byId("compare").options[0], ...options());
  byId("strategy").value = facts.strategy;
  byId("tokens").value = String(facts.max_new_tokens);
  byId("as-chat").hidden = !facts.has_chat_template;
  document.title = `${data[0].id}: how an answer is decoded`;
}

/** Yield the objects of a stream of server-sent events. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const text = part.replace(/^data: /, "");
      if (text !== "[DONE]") yield JSON.parse(text);
    }
  }
}

/** Return the body of a request for a strategy. */
function bodyFor(strategy, seed) {
  const isChat = !byId("as-chat").hidden && byId("chat").checked;
  const prompt = isChat ? { messages: [{ role: "user", content: field("text") }] } : { prompt: field("text") };
  const settings = { max_tokens: Number(field("tokens")), temperature: Number(field("temperature")), seed };
  const path = isChat ? "v1/chat/completions" : "v1/completions";
  return { path, body: { ...prompt, ...settings, stream: true, demask: { strategy, trace: true } } };
}

/** Decode with a strategy, and hand on its trace once it has begun. */
async function follow(strategy, seed, onOpening) {
  const { path, body } = bodyFor(strategy, seed);
  const options = { method: "POST", body: JSON.stringify(body), signal: controller.signal };
  let views = null;
  for await (const event of events(await ask(path, options))) {
    if (event.error) throw new Error(event.error.message);
    const part = event.choices[0]?.demask?.trace;
    if (part?.initial) {
      views = new Views(part);
      onOpening(views);
    }
    if (part?.frame) views.add(part.frame);
    if (part?.final) views.end(part.final);
    if (part) player.grown();
  }
}

/** Decode the prompt with the chosen strategies at once. */
async function decode() {
  controller?.abort();
  const own = new AbortController();
  controller = own;
  const names = [field("strategy"), field("compare")].filter((name) => name !== "");
  const opened = names.map(() => null);
  // Equal seeds make equal draws.
  const seed = Math.floor(Math.random() * 2 ** 31);
  byId("error").textContent = "";
  byId("stop").disabled = false;
  player.load([]);
  const open = (place) => (views) => {
    opened[place] = views;
    player.load(opened.filter((each) => each !== null));
  };
  try {
    await Promise.all(names.map((name, place) => follow(name, seed, open(place))));
  } catch (error) {
    own.abort();
    if (controller === own && error.name !== "AbortError") byId("error").textContent = error.message;
  } finally {
    if (controller === own) byId("stop").disabled = true;
  }
}

const tell = (error) => {
  byId("error").textContent = error.message;
};
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  decode();
});
byId("stop").addEventListener("click", () => controller?.abort());
byId("key").addEventListener("change", () => {
  byId("error").textContent = "";
  readFacts().catch(tell);
});
readFacts().catch(tell);
