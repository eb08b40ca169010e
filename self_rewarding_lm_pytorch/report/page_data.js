// The list's data. They are shown through textContent alone: nothing in them can become markup.
"use strict";
const at = (id) => document.getElementById(id);
let data; // as the page has it: stages, outcomes, texts, visits
let visits; // the same with names in place of numbers
let lower; // the texts in lower case
let words = []; // what is searched for, in lower case

function element(name, look, ...children) {
  const made = document.createElement(name);
  if (look) made.className = look;
  made.append(...children); // strings become text nodes
  return made;
}

// A text of the run with the searched words marked.
function foreign(place, look) {
  const made = element("bdi", look, ...marked(data.texts[place] || "(nothing)"));
  made.dir = "auto"; // a right-to-left text must not move what stands beside it
  return made;
}

function marked(text) {
  if (!words.length) return [text];
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = text.split(new RegExp("(" + escaped.join("|") + ")", "gi"));
  return parts.map((part, place) => (place % 2 ? element("mark", "", part) : part));
}

function points(score, digits = 2) {
  return typeof score === "number" ? String(Number(score.toFixed(digits))) : "no score";
}

// The fewest decimals, two at least, with which different scores look different.
function decimals(scores) {
  const known = [...new Set(scores.filter((score) => typeof score === "number"))];
  let digits = 2;
  while (digits < 12 && new Set(known.map((score) => score.toFixed(digits))).size < known.length) digits += 1;
  return digits;
}

// Two digits that are not zero, however small it is.
function marginText({ margin, digits }) {
  const first = margin ? Math.ceil(-Math.log10(Math.abs(margin))) : 0;
  return points(margin, Math.min(20, Math.max(digits, first + 1)));
}

async function read() {
  const text = at("data").textContent;
  data = JSON.parse(at("data").type === "text/plain" ? await unpacked(text) : text);
  lower = data.texts.map((each) => each.toLowerCase());
  visits = data.visits.map(named);
}

// Large lists are deflated.
function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

function named([stage, prompt, outcome, index, visit, why, cards]) {
  const made = { stage, prompt, outcome, index, visit, why, cards: cards.map(namedCard) };
  const scoreOf = (role) => (made.cards.find((card) => card.role === role) || {}).score;
  const [chosen, rejected] = [scoreOf(1), scoreOf(2)];
  const isKnown = typeof chosen === "number" && typeof rejected === "number";
  made.isPair = data.outcomes[outcome] === "pair";
  made.margin = made.isPair && isKnown ? Number((chosen - rejected).toPrecision(9)) : null; // 0.3 - 0.1 is 0.2
  made.digits = decimals(made.cards.map((card) => card.score));
  for (const card of made.cards) card.digits = made.digits;
  made.address = ["pair", encodeURIComponent(data.stages[stage]), index, visit].join("/");
  return made;
}

function namedCard([text, role, tokens, fate, writer, score, votes, reason], number) {
  const given = { text, role: role & 3, isCut: Boolean(role & 4), tokens, fate, writer, number };
  return { ...given, isJudged: votes !== undefined, score, votes: votes || [], reason };
}
