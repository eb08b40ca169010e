// Searching, filtering, ordering and paging.

const PER_PAGE = 25;
let found = [];
let page = 0;

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  at("list").replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(row));
  const all = visits.length.toLocaleString("en") + (visits.length === 1 ? " visit" : " visits");
  at("count").textContent = found.length === 0 ? "Nothing matches; try fewer words or another filter."
    : (found.length < visits.length ? found.length.toLocaleString("en") + " of " : "") + all;
  // Paper shows one page of the list, so the line says which rows these are.
  const last = Math.min(found.length, (page + 1) * PER_PAGE).toLocaleString("en");
  const rows = (page * PER_PAGE + 1).toLocaleString("en") + " to " + last + " of " + found.length.toLocaleString("en");
  if (pages > 1) at("count").append(element("span", "", ": rows " + rows));
  at("page").textContent = "Page " + (page + 1) + " of " + pages;
  at("previous").disabled = page === 0;
  at("next").disabled = page === pages - 1;
  at("pager").hidden = pages === 1;
}

// From a pair of number fields to whether a value lies between them; an empty field is no limit.
function between(name) {
  const [low, high] = ["low", "high"].map((end) => at(name + "-" + end).value);
  if (low === "" && high === "") return () => true;
  const from = low === "" ? -Infinity : Number(low);
  const to = high === "" ? Infinity : Number(high);
  return (value) => typeof value === "number" && value >= from && value <= to;
}

function matches() {
  const [stage, outcome] = [at("stage").value, at("outcome").value];
  const hits = words.map((word) => lower.map((text) => text.includes(word))); // every text once
  const [isMargin, isScore] = [between("margin"), between("score")];
  const inCard = (card, hit) => hit[card.text] || card.votes.some((vote) => hit[vote[0]]);
  return (visit) =>
    (stage === "" || visit.stage === Number(stage)) &&
    (outcome === "" || visit.outcome === Number(outcome)) &&
    isMargin(visit.margin) &&
    (visit.cards.some((card) => isScore(card.score)) || isScore(undefined)) &&
    hits.every((hit) => hit[visit.prompt] || visit.cards.some((card) => inCard(card, hit)));
}

function dispute(visit) {
  const spread = (card) => {
    const scores = card.votes.map((vote) => vote[1]).filter((score) => typeof score === "number");
    return scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : null;
  };
  return highest(visit.cards.map(spread));
}

function highest(values) {
  const known = values.filter((value) => typeof value === "number");
  return known.length ? Math.max(...known) : null;
}

const ORDERS = {
  margin: (visit) => visit.margin,
  length: (visit) => highest(visit.cards.map((card) => card.tokens)),
  dispute,
};

function ordered(given) {
  const [name, way] = at("order").value.split("-");
  if (!name) return given;
  const sign = way === "up" ? 1 : -1;
  const keyed = given.map((visit) => [ORDERS[name](visit), visit]);
  const rank = ([value]) => (value === null ? 1 : 0); // what has no such value comes last
  keyed.sort((a, b) => rank(a) - rank(b) || sign * (a[0] - b[0]));
  return keyed.map(([, visit]) => visit);
}

function search() {
  words = at("query").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  found = ordered(visits.filter(matches()));
  page = 0;
  show();
}

function unfilter() {
  at("tools").reset();
  search();
}

function turn(by) {
  const pages = Math.ceil(found.length / PER_PAGE);
  if (page + by < 0 || page + by >= pages) return false;
  page += by;
  show();
  at("count").scrollIntoView({ block: "start" });
  return true;
}

function fill(select, names, column, all) {
  const counts = names.map(() => 0);
  for (const visit of visits) counts[visit[column]] += 1;
  select.append(new Option(all, ""));
  names.forEach((name, place) => {
    if (counts[place]) select.append(new Option(name + " (" + counts[place].toLocaleString("en") + ")", place));
  });
}
