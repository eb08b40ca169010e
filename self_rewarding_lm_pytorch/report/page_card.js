// A row of the list: its line, and once it is opened its candidates side by side.

const VOTE_STATUS = {
  f: "score forced after an unparsed vote",
  e: "expected: the mean of the judge's distribution, nothing sampled",
  u: "unparsed",
};

// Votes that say the same are shown once, with how many they are.
function merged(votes) {
  const groups = new Map();
  for (const vote of votes) {
    const key = JSON.stringify(vote);
    const group = groups.get(key) || { vote, count: 0 };
    group.count += 1;
    groups.set(key, group);
  }
  return [...groups.values()];
}

function voteItem({ vote: [text, score, status, reason], count }, digits) {
  const value = element("b", "", points(score, digits));
  if (count > 1) value.prepend(element("small", "", count + " × "));
  const made = element("li", "", foreign(text), value);
  const more = status === "u" ? ": " + (data.texts[reason] || "no reason given") : "";
  if (status) made.append(element("em", "", VOTE_STATUS[status] + more));
  return made;
}

function cardItem(card) {
  const part = ["", "chosen", "rejected"][card.role];
  const length = card.tokens === null ? "" : ", " + card.tokens + (card.tokens === 1 ? " token" : " tokens");
  const head = element("div", "head", element("span", "", "No. " + (card.number + 1) + length));
  const isMean = card.votes.length > 1 && typeof card.score === "number";
  if (card.isJudged) head.append(element("b", "", (isMean ? "mean " : "") + points(card.score, card.digits)));
  const fate = element("p", "fate", ...(part ? [element("span", "chip " + part, part)] : []));
  const why = data.texts[card.fate].replace(/^(chosen|rejected):? ?/, part ? "" : "$1 ");
  if (why) fate.append(element("span", "", why));
  const made = element("article", "card " + part, head, fate, element("p", "text", foreign(card.text)));
  if (card.isCut) made.append(element("p", "cut", "cut off at its token limit"));
  if (card.writer >= 0) made.append(element("p", "meta", "written by ", foreign(card.writer)));
  if (card.reason >= 0 && data.texts[card.reason]) made.append(element("p", "meta", foreign(card.reason)));
  if (card.votes.length) made.append(element("ul", "votes", ...merged(card.votes).map((group) => voteItem(group, card.digits))));
  return made;
}

function line(visit) {
  const [chosen, rejected] = [1, 2].map((role) => visit.cards.find((card) => card.role === role));
  const scores = visit.margin === null ? "" : ": " + points(chosen.score, visit.digits) + " over " + points(rejected.score, visit.digits);
  const ask = data.texts[visit.prompt] ? foreign(visit.prompt, "ask") : element("span", "ask none", "Prompt " + visit.index);
  const place = data.stages[visit.stage] + ", prompt " + visit.index + (visit.visit ? ", visit " + (visit.visit + 1) : "");
  const chip = element("span", "chip" + (visit.isPair ? " chosen" : ""), data.outcomes[visit.outcome] + scores);
  return element("summary", "", ask, chip, element("span", "meta", place));
}

function inside(visit) {
  const link = element("a", "", "Link to this");
  link.href = "#" + visit.address;
  const margin = visit.margin === null ? "" : " The margin is " + marginText(visit) + ".";
  const why = element("p", "why", data.texts[visit.why] + margin + " ", link);
  const rank = (card) => (card.role ? card.role : 3); // chosen and rejected first, side by side
  const cards = [...visit.cards].sort((a, b) => rank(a) - rank(b) || a.number - b.number);
  const shown = cards.length ? element("div", "cards", ...cards.map(cardItem)) : element("p", "note", "No candidates are stored.");
  return element("div", "inside", why, shown);
}

function row(visit) {
  const details = element("details", "", line(visit));
  details.addEventListener("toggle", () => { // cards are made when first asked for
    if (details.open && details.children.length === 1) details.append(inside(visit));
    if (details.open) remember(visit.address);
    else if (location.hash.slice(1) === visit.address) remember("pairs");
  });
  return element("li", "", details);
}

// The address bar names the row that was opened last, so that it can be shared.
function remember(address) {
  try {
    history.replaceState(null, "", "#" + address);
  } catch { /* some browsers refuse this to files */ }
}
