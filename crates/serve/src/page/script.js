// The page's hands: it sends what people type and puts the server's HTML where it belongs. All HTML that comes in here was
// made and cleaned by the server; what this script adds itself is text.
"use strict";

const at = (id) => document.getElementById(id);
const html = document.documentElement;
const phone = matchMedia("(max-width: 48rem)");

let conversation = null; // Which one is shown; none for a new one.
let answering = null; // What breaks off the answer that is being made.
let listing = 0; // Lists of conversations that were asked for from their beginning.
let welcome = ""; // HTML for when nothing was said yet.

// ---- The server ----

// Asks the server; gives the response if it is a good one.
async function ask(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem("key");
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
    if (response.ok) return response;
    if (response.status === 401 && (await askKey())) continue;
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `The server answered ${response.status}.`);
  }
}

// Asks for a key; whether there is one now.
function askKey() {
  const dialog = at("ask-key");
  at("key").value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => {
      const key = at("key").value.trim();
      if (key) sessionStorage.setItem("key", key);
      done(key !== "");
    };
  });
}

// The JSON of a stream's events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}

// ---- Telling people ----

function alarm(error) {
  at("alert").textContent = error ? error.message ?? error : "";
  at("alert").hidden = !error;
}

// For those who hear the page.
function say(text) {
  at("status").textContent = text;
}

// Does something; what goes wrong is shown.
async function attempt(work) {
  try {
    alarm(null);
    return await work();
  } catch (error) {
    alarm(error);
  }
}

// ---- Conversations ----

const articles = () => [...at("thread").querySelectorAll("article")];

async function list(after) {
  const query = new URLSearchParams({ words: at("search").value });
  if (after) query.set("after", after);
  const call = after ? listing : ++listing;
  const text = await (await ask(`page/conversations?${query}`)).text();
  // Answers may come in another order than they were asked for.
  if (call !== listing) return;
  if (after) at("conversations").lastElementChild.remove();
  else at("conversations").replaceChildren();
  at("conversations").insertAdjacentHTML("beforeend", text);
  mark();
}

// Marks the conversation that is shown.
function mark() {
  for (const item of at("conversations").querySelectorAll("[data-conversation]")) {
    const here = item.dataset.conversation === conversation;
    item.querySelector("a").toggleAttribute("aria-current", here);
    if (here) document.title = `${item.querySelector("a").firstChild.textContent} · puna`;
  }
}

// Shows what the address names: #/CONVERSATION/MESSAGE.
async function show() {
  const [, id, message] = location.hash.match(/^#\/([^/]*)\/?(.*)$/) ?? [];
  answering?.abort();
  conversation = id || null;
  html.removeAttribute("data-sidebar");
  at("open-sidebar").setAttribute("aria-expanded", "false");
  document.title = "puna";
  if (conversation) {
    const query = message ? `?at=${encodeURIComponent(message)}` : "";
    const path = `page/conversations/${encodeURIComponent(conversation)}${query}`;
    at("thread").innerHTML = await (await ask(path)).text();
  } else {
    at("thread").innerHTML = welcome;
  }
  mark();
  down();
  if (!phone.matches) at("question").focus();
}

function go(id, message) {
  const hash = id ? `#/${id}${message ? `/${message}` : ""}` : "#/";
  if (location.hash === hash) attempt(show);
  else location.hash = hash;
}

// Sets the address without showing anything anew.
function name(id) {
  if (conversation === id && location.hash === `#/${id}`) return;
  conversation = id;
  history.pushState(null, "", `#/${id}`);
}

const down = () => at("scroll").scrollTo({ top: at("scroll").scrollHeight });
const isDown = () => at("scroll").scrollHeight - at("scroll").scrollTop - at("scroll").clientHeight < 80;

// ---- Settings ----

function settings() {
  const values = JSON.parse(localStorage.getItem("settings") ?? "{}");
  return { get: (name) => values[name] ?? "", values };
}

function fillSettings() {
  const { get, values } = settings();
  for (const field of at("fields").querySelectorAll("[name]")) field.value = get(field.name);
  showForm();
  const isSet = Object.keys(values).length > 0;
  at("open-settings").textContent = isSet ? "Settings •" : "Settings";
  at("open-settings").setAttribute("aria-label", isSet ? "Settings, some are changed" : "Settings");
}

function keepSettings() {
  const fields = [...at("fields").querySelectorAll("[name]")].filter((field) => field.value.trim() !== "");
  localStorage.setItem("settings", JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, field.value]))));
  fillSettings();
}

function showForm() {
  at("schema-field").hidden = at("set-form").value !== "json_schema";
}

// What is asked for, as the API wants it.
function chosen() {
  const { get } = settings();
  const fields = { model: at("model").value };
  for (const field of at("fields").querySelectorAll("input")) {
    if (get(field.name) !== "") fields[field.name] = Number(get(field.name));
  }
  const form = get("form");
  if (form === "json_object") fields.response_format = { type: form };
  if (form === "json_schema") {
    let schema;
    try {
      schema = JSON.parse(get("schema"));
    } catch (error) {
      throw new Error(`The JSON schema in the settings is no JSON: ${error.message}`);
    }
    fields.response_format = { type: form, json_schema: { name: "answer", schema, strict: true } };
  }
  return { settings: fields, system: get("system") || undefined };
}

// ---- Asking ----

// Asks a question behind a message, or has one answered anew. What is shown behind the message makes room.
async function answer({ parent, question, behind }) {
  if (answering) return false;
  const stopping = new AbortController();
  answering = stopping;
  at("send").hidden = true;
  at("stop").hidden = false;
  say("The answer is being written.");
  let begun = false;
  try {
    const body = { conversation: conversation ?? undefined, parent, question, ...chosen() };
    const response = await ask("page/answer", { method: "POST", body, signal: stopping.signal });
    const article = document.createElement("article");
    article.className = "answer";
    const text = article.appendChild(document.createElement("div"));
    text.className = "text";
    const open = text.appendChild(document.createElement("div"));
    open.className = "open waits";
    for await (const event of events(response)) {
      const follows = isDown();
      if (event.conversation) {
        begun = true;
        if (behind) while (behind.nextSibling) behind.nextSibling.remove();
        else at("thread").replaceChildren();
        if (question !== undefined) at("thread").insertAdjacentHTML("beforeend", event.question);
        at("thread").append(article);
        name(event.conversation);
        down();
        attempt(() => list());
      }
      if (event.finished) {
        open.insertAdjacentHTML("beforebegin", event.finished);
        // Block by block, so that nothing is said twice.
        say(open.previousElementSibling?.textContent ?? "");
      }
      if (event.open !== undefined) open.innerHTML = event.open;
      if (event.answer !== undefined) {
        if (event.answer) article.outerHTML = event.answer;
        else article.remove();
        say(`The answer is finished. ${open.textContent}`);
      }
      if (event.error) alarm(event.error);
      if (follows) down();
    }
  } catch (error) {
    if (error.name !== "AbortError") alarm(error);
  } finally {
    if (answering === stopping) answering = null;
    at("send").hidden = false;
    at("stop").hidden = true;
  }
  return begun;
}

async function send() {
  const field = at("question");
  const question = field.value;
  if (!question.trim() || answering) return;
  alarm(null);
  const last = articles().at(-1);
  field.value = "";
  const parent = last && Number(last.dataset.message);
  const begun = await answer({ parent, question, behind: last });
  // What did not get through is not lost.
  if (!begun && !field.value) field.value = question;
  if (!phone.matches) field.focus();
}

function stop() {
  if (!answering) return;
  if (conversation) attempt(() => ask(`page/conversations/${encodeURIComponent(conversation)}/stop`, { method: "POST" }));
  else answering.abort();
}

// Turns a question into a field.
function edit(article) {
  if (answering || article.querySelector("form")) return;
  const text = article.querySelector(".text");
  const footer = article.querySelector("footer");
  const form = document.createElement("form");
  const field = form.appendChild(document.createElement("textarea"));
  field.value = article.dataset.text;
  field.rows = Math.min(12, field.value.split("\n").length + 1);
  field.setAttribute("aria-label", "Your question");
  const row = form.appendChild(document.createElement("div"));
  for (const [label, type] of [["Cancel", "button"], ["Send", "submit"]]) {
    const button = row.appendChild(document.createElement("button"));
    button.type = type;
    button.textContent = label;
    if (type === "button") button.className = "quiet";
  }
  const close = () => {
    form.remove();
    text.hidden = footer.hidden = false;
    at("question").focus();
  };
  row.firstChild.onclick = close;
  form.onkeydown = (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (sends(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    const question = field.value;
    if (!question.trim()) return;
    alarm(null);
    const parent = article.dataset.parent ? Number(article.dataset.parent) : undefined;
    form.querySelectorAll("button").forEach((button) => (button.disabled = true));
    answer({ parent, question, behind: article.previousElementSibling }).then((begun) => {
      if (!begun) form.querySelectorAll("button").forEach((button) => (button.disabled = false));
    });
  };
  text.hidden = footer.hidden = true;
  article.append(form);
  field.focus();
}

// Whether a key sends: a phone's keyboard has no other way to begin a line.
const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;

async function copy(text, button) {
  await navigator.clipboard.writeText(text);
  const label = button.textContent;
  button.textContent = "Copied";
  say("Copied.");
  setTimeout(() => (button.textContent = label), 1500);
}

const actions = {
  copy: (article, button) => copy(article.dataset.text, button),
  edit,
  retry(article) {
    const isAnswer = article.classList.contains("answer");
    const parent = Number(isAnswer ? article.dataset.parent : article.dataset.message);
    const behind = isAnswer ? article.previousElementSibling : article;
    alarm(null);
    // The button goes with its answer.
    if (!phone.matches) at("question").focus();
    return answer({ parent, behind });
  },
  branch(article) {
    go(conversation, article.dataset.message);
    say("Your next question begins another branch here.");
  },
  go: (article, button) => go(conversation, button.dataset.at),
  async prompt(article) {
    const path = `page/conversations/${encodeURIComponent(conversation)}/prompt/${article.dataset.message}`;
    at("tokens").innerHTML = await (await ask(path)).text();
    at("prompt").showModal();
  },
  async rename(item) {
    const title = prompt("Title", item.querySelector("a").firstChild.textContent);
    if (title === null) return;
    await ask(`page/conversations/${item.dataset.conversation}`, { method: "POST", body: { title } });
    await list();
  },
  async delete(item) {
    if (!confirm("Delete this conversation? It can't be had back.")) return;
    const id = item.dataset.conversation;
    if (id === conversation) answering?.abort();
    await ask(`page/conversations/${id}`, { method: "DELETE" });
    await list();
    if (id === conversation) go(null);
  },
};

// ---- Light and dark ----

function theme(next) {
  const themes = ["auto", "light", "dark"];
  let now = localStorage.getItem("theme") ?? "auto";
  if (next) now = themes[(themes.indexOf(now) + 1) % 3];
  localStorage.setItem("theme", now);
  html.dataset.theme = now;
  at("theme").textContent = `Theme: ${now}`;
}

// ---- What people do ----

function sidebar(open) {
  html.toggleAttribute("data-sidebar", open);
  at("open-sidebar").setAttribute("aria-expanded", String(open));
  (open ? at("close-sidebar") : at("open-sidebar")).focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do) {
    attempt(() => actions[button.dataset.do](button.closest("article, li"), button));
  } else if (button.matches(".copy")) {
    attempt(() => copy(button.closest("figure").querySelector("code").textContent, button));
  } else if (button.matches(".example")) {
    at("question").value = button.textContent;
    send();
  } else if (button.dataset.after) {
    attempt(() => list(button.dataset.after));
  }
});

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const types = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && html.hasAttribute("data-sidebar")) sidebar(false);
  else if (event.key === "Escape") stop();
  else if ((event.key === "/" && !types) || (event.key === "k" && (event.ctrlKey || event.metaKey))) {
    event.preventDefault();
    if (phone.matches) sidebar(true);
    at("search").focus();
  }
});

at("question").addEventListener("keydown", (event) => {
  if (sends(event)) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !event.target.value) {
    const last = articles().findLast((article) => article.matches(".question"));
    if (!last) return;
    event.preventDefault();
    edit(last);
  }
});

let typing;
at("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => attempt(() => list()), 200);
});

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("stop").addEventListener("click", stop);
at("new").addEventListener("click", () => go(null));
at("theme").addEventListener("click", () => theme(true));
at("open-sidebar").addEventListener("click", () => sidebar(true));
at("close-sidebar").addEventListener("click", () => sidebar(false));
at("open-settings").addEventListener("click", () => at("settings").showModal());
at("settings").addEventListener("close", keepSettings);
at("fields").addEventListener("change", showForm);
at("reset").addEventListener("click", () => {
  localStorage.removeItem("settings");
  fillSettings();
});
at("model").addEventListener("change", () => localStorage.setItem("model", at("model").value));
addEventListener("hashchange", () => {
  // The link past the list names a place on the page.
  if (!location.hash || location.hash.startsWith("#/")) attempt(show);
});

theme(false);
attempt(async () => {
  const about = await (await ask("page/about")).json();
  at("model").innerHTML = about.models;
  at("fields").innerHTML = about.fields;
  at("terms").innerHTML = about.terms;
  welcome = about.welcome;
  const model = localStorage.getItem("model");
  if ([...at("model").options].some((option) => option.value === model)) at("model").value = model;
  fillSettings();
  await Promise.all([list(), show()]);
});
