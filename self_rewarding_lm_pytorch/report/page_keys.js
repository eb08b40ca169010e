// Links to one row, the keyboard, and the start.

const summaries = () => [...at("list").querySelectorAll("summary")];

// Opens the row that the address names, clearing what hides it.
function reveal() {
  const visit = visits.find((each) => each.address === location.hash.slice(1));
  if (!visit) return;
  if (!found.includes(visit)) unfilter();
  const place = found.indexOf(visit);
  if (page !== Math.floor(place / PER_PAGE)) {
    page = Math.floor(place / PER_PAGE);
    show();
  }
  const summary = summaries()[place % PER_PAGE];
  summary.parentElement.open = true;
  summary.focus({ preventScroll: true });
  summary.scrollIntoView({ block: "start" });
}

function move(by) {
  const rows = summaries();
  const details = document.activeElement && document.activeElement.closest("#list details");
  const now = details ? rows.indexOf(details.firstElementChild) : -1;
  let next = now === -1 ? 0 : now + by;
  if (next < 0 && turn(-1)) next = PER_PAGE - 1;
  else if (next >= rows.length && turn(1)) next = 0;
  const row = summaries()[next];
  if (row) {
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  }
}

// Turning makes other rows, so what had the focus is gone.
function turnTo(by) {
  if (turn(by)) summaries()[0].focus({ preventScroll: true });
}

function leave(target) {
  const details = target.closest("#list details");
  if (target === at("query") && target.value) {
    target.value = "";
    search();
  } else if (target === at("query")) target.blur();
  else if (details && details.open) {
    details.open = false;
    details.firstElementChild.focus();
  }
}

const KEYS = {
  "/": () => { at("query").focus(); at("query").select(); },
  j: () => move(1),
  k: () => move(-1),
  n: () => turnTo(1),
  p: () => turnTo(-1),
  "?": () => at("keys").showModal(),
};

function press(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  const isInList = Boolean(target.closest("#list"));
  if (key === "Escape") leave(target);
  else if (target.closest("input, select, textarea")) {
    if (key !== "ArrowDown" || target !== at("query")) return;
    event.preventDefault();
    move(1);
  } else if (isInList && (key === "ArrowDown" || key === "ArrowUp")) {
    event.preventDefault(); // elsewhere the arrows scroll
    move(key === "ArrowDown" ? 1 : -1);
  } else if (KEYS[key]) {
    event.preventDefault();
    KEYS[key]();
  }
}

async function start() {
  try {
    await read();
  } catch (error) {
    at("unread").hidden = false;
    throw error;
  }
  let timer;
  found = visits;
  fill(at("stage"), data.stages, "stage", "All stages");
  fill(at("outcome"), data.outcomes, "outcome", "All outcomes");
  at("tools").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 120); });
  at("tools").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  at("unfilter").addEventListener("click", unfilter);
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("help").addEventListener("click", () => at("keys").showModal());
  document.addEventListener("keydown", press);
  addEventListener("hashchange", reveal);
  at("tools").hidden = false;
  show();
  reveal();
}

if (at("list")) start(); // a run without visits has no list
