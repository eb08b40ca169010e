// The browsable list. Data are shown through textContent alone: nothing in them can become markup.
"use strict";
(() => {
  const PER_PAGE = 25;
  const at = (id) => document.getElementById(id);
  if (!at("list")) return; // a run without visits has no list
  const data = JSON.parse(at("data").textContent);
  const lower = data.texts.map((text) => text.toLowerCase());
  let found = data.visits;
  let page = 0;

  function element(name, look, ...children) {
    const made = document.createElement(name);
    if (look) made.className = look;
    made.append(...children); // strings become text nodes
    return made;
  }

  function foreign(place, look) {
    const made = element("bdi", look, data.texts[place] || "(nothing)");
    made.dir = "auto"; // a right-to-left text must not move what stands beside it
    return made;
  }

  function points(score) {
    return score === null || score === undefined ? "no score" : String(Number(score.toFixed(2)));
  }

  function vote([text, score, status, reason]) {
    const made = element("li", "", foreign(text), element("b", "", points(score)));
    if (status === "f") made.append(element("em", "", "score forced after an unparsed vote"));
    if (status === "e") made.append(element("em", "", "expected: the mean of the judge's distribution, nothing sampled"));
    if (status === "u") made.append(element("em", "", "unparsed: " + (data.texts[reason] || "no reason given")));
    return made;
  }

  function card([text, role, score, votes, reason], number) {
    const part = ["", "chosen", "rejected"][role & 3];
    const head = element("div", "head", "No. " + (number + 1));
    if (part) head.append(element("span", "chip " + part, part));
    if (role & 4) head.append(element("span", "", "cut off at its token limit"));
    if (votes) head.append(element("b", "", (votes.length > 1 ? "mean " : "") + points(score)));
    const made = element("article", "card " + part, head, element("p", "", foreign(text)));
    if (reason !== undefined && data.texts[reason]) made.append(element("p", "meta", foreign(reason)));
    if (votes && votes.length) made.append(element("ul", "votes", ...votes.map(vote)));
    return made;
  }

  function summary([stage, prompt, outcome, index, visit, cards]) {
    const isPair = data.outcomes[outcome] === "pair";
    const scoreOf = (role) => (cards.find((each) => (each[1] & 3) === role) || [])[2];
    const scores = isPair && scoreOf(1) !== undefined ? ": " + points(scoreOf(1)) + " over " + points(scoreOf(2)) : "";
    const ask = data.texts[prompt] ? foreign(prompt, "ask") : element("span", "ask none", "Prompt " + index);
    const place = data.stages[stage] + ", prompt " + index + (visit ? ", visit " + (visit + 1) : "");
    const chip = element("span", "chip" + (isPair ? " chosen" : ""), data.outcomes[outcome] + scores);
    return element("summary", "", ask, chip, element("span", "meta", place));
  }

  function row(visit) {
    const details = element("details", "", summary(visit));
    details.addEventListener("toggle", () => { // cards are made when first asked for
      if (details.open && details.children.length === 1) {
        const cards = visit[5].map(card);
        details.append(cards.length ? element("div", "cards", ...cards) : element("p", "note", "No candidates are stored."));
      }
    });
    return element("li", "", details);
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    at("list").replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(row));
    at("count").textContent = found.length === 0 ? "Nothing matches; try a shorter search or another filter."
      : found.length.toLocaleString("en") + (found.length === 1 ? " visit" : " visits");
    at("page").textContent = "Page " + (page + 1) + " of " + pages;
    at("previous").disabled = page === 0;
    at("next").disabled = page === pages - 1;
  }

  function matches() {
    const words = at("query").value.trim().toLowerCase();
    const stage = at("stage").value;
    const outcome = at("outcome").value;
    const hits = lower.map((text) => text.includes(words)); // every text once, however often it is used
    const inCard = ([text, , , votes]) => hits[text] || (votes || []).some((each) => hits[each[0]]);
    return (visit) =>
      (stage === "" || visit[0] === Number(stage)) &&
      (outcome === "" || visit[2] === Number(outcome)) &&
      (words === "" || hits[visit[1]] || visit[5].some(inCard));
  }

  function search() {
    found = data.visits.filter(matches());
    page = 0;
    show();
  }

  function turn(by) {
    page += by;
    show();
    at("pairs").scrollIntoView({ block: "start" });
  }

  function fill(select, names, column, all) {
    const counts = names.map(() => 0);
    for (const visit of data.visits) counts[visit[column]] += 1;
    select.append(new Option(all, ""));
    names.forEach((name, place) => {
      if (counts[place]) select.append(new Option(name + " (" + counts[place].toLocaleString("en") + ")", place));
    });
    select.addEventListener("change", search);
  }

  let timer;
  fill(at("stage"), data.stages, 0, "All stages");
  fill(at("outcome"), data.outcomes, 2, "All outcomes");
  at("query").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 120); });
  at("tools").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("tools").hidden = at("pager").hidden = false;
  show();
})();
