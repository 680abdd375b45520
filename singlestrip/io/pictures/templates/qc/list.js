// The list of cards: sort, filter, search, and the selected scan.

import { byId, data, scans } from "./data.js";

/* What is chosen in each filter. "all" shows every scan; "" shows those without rating or reason. */
const filters = { flag: "all", rating: "all", reason: "all" };

/* Scans that the filters and the search leave, in the order of the list. */
export let shown = [];

/* The scan that the keys act on, or null. */
export let selected = null;

// Sort

const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });

/* A scan without an estimate comes first: it is worse than any with one. */
const byEstimatedDice = (a, b) => (a.estimated_dice ?? -1) - (b.estimated_dice ?? -1) || byName(a, b);

function parseNumber(text) {
  return Number.parseFloat(text.replace(/[\s,]/g, "").replace("−", "-"));
}

/* Compares by one of the columns. Scans without the number come last in both directions (1 and -1). */
function byColumn(column, direction) {
  return (a, b) => {
    const [x, y] = [parseNumber(a.numbers[column]), parseNumber(b.numbers[column])];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || byName(a, b);
    return direction * (x - y) || byName(a, b);
  };
}

/* By the group of the gravest reason, the worst scan of each first. Scans without a reason come last. */
function byReason(a, b) {
  const [x, y] = [a, b].map((scan) => scan.reasons[0]?.group);
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || byEstimatedDice(a, b);
  return x.localeCompare(y, "en") || byEstimatedDice(a, b);
}

const hasReasons = scans.some((scan) => scan.reasons.length);

const orders = [
  { title: "Estimated Dice, worst first", compare: byEstimatedDice },
  ...(hasReasons ? [{ title: "Reason", compare: byReason }] : []),
  { title: "Name", compare: byName },
  ...data.columns.flatMap((title, column) => [
    { title: `${title}, highest first`, compare: byColumn(column, -1) },
    { title: `${title}, lowest first`, compare: byColumn(column, 1) },
  ]),
];

export function fillSortMenu() {
  orders.forEach(({ title }, index) => {
    byId("sort").append(new Option(title, index));
  });
}

// Filter and search

/* What a filter compares: a scan's flag or rating, or the groups of its reasons. */
function labelsOf(scan, key) {
  if (key !== "reason") return [scan[key]];
  return scan.reasons.length ? scan.reasons.map((reason) => reason.group) : [""];
}

function passesFilter(scan, key, value) {
  return value === "all" || labelsOf(scan, key).includes(value);
}

/* The reasons to choose from, the most frequent first. A page without reasons has no such menu. */
export function fillReasonMenu() {
  byId("reason-choice").hidden = !hasReasons;
  const count = (value) => scans.filter((scan) => passesFilter(scan, "reason", value)).length;
  const groups = [...new Set(scans.flatMap((scan) => scan.reasons.map((reason) => reason.group)))];
  const counts = new Map(groups.map((group) => [group, count(group)]));
  groups.sort((a, b) => counts.get(b) - counts.get(a) || a.localeCompare(b, "en"));
  byId("reason").append(
    new Option(`All (${scans.length})`, "all"),
    ...groups.map((group) => new Option(`${group} (${counts.get(group)})`, group)),
    new Option(`none (${count("")})`, ""),
  );
}

function matches(scan) {
  const wanted = byId("search").value.trim().toLowerCase();
  const texts = [scan.name, scan.note, scan.comment, ...scan.reasons.map((reason) => reason.text)];
  return (
    Object.entries(filters).every(([key, value]) => passesFilter(scan, key, value)) &&
    texts.some((text) => text.toLowerCase().includes(wanted))
  );
}

/* Sort, filter and search again, and select the first scan. A new rating does not call this: a card must not vanish
   while the user works on it. */
export function updateList() {
  const sorted = [...scans].sort(orders[byId("sort").value].compare);
  shown = sorted.filter(matches);
  for (const scan of scans) scan.card.hidden = true;
  for (const scan of shown) scan.card.hidden = false;
  byId("scans").append(...sorted.map((scan) => scan.card));
  byId("empty").hidden = shown.length > 0;
  byId("empty-text").textContent = scans.length ? "No scan matches." : "This page has no scans.";
  byId("show-all").hidden = !scans.length;
  showCounts();
  select(shown[0] ?? null);
  scrollTo(0, 0);
}

/* Filter by a flag, a rating or a reason; `key` says by which. */
export function setFilter(key, value) {
  filters[key] = value;
  byId("reason").value = filters.reason;
  updateList();
}

export function showAllScans() {
  for (const key of Object.keys(filters)) filters[key] = "all";
  byId("reason").value = "all";
  byId("search").value = "";
  updateList();
}

/* Show how many scans each filter would leave, and how many are rated. */
export function showCounts() {
  for (const group of document.querySelectorAll("[data-filter]")) {
    const key = group.dataset.filter;
    for (const button of group.children) {
      const value = button.dataset.value;
      const count = scans.filter((scan) => passesFilter(scan, key, value)).length;
      button.setAttribute("aria-pressed", String(filters[key] === value));
      button.querySelector(".count").textContent = ` ${count}`;
    }
  }
  const rated = scans.filter((scan) => scan.rating).length;
  byId("progress").textContent = `${rated} of ${scans.length} rated`;
  byId("meter").style.width = `${(100 * rated) / Math.max(1, scans.length)}%`;
}

// Selection

export function select(scan) {
  selected?.card.removeAttribute("aria-current");
  selected = scan;
  selected?.card.setAttribute("aria-current", "true");
  byId("position").textContent = selected
    ? `Scan ${shown.indexOf(selected) + 1} of ${shown.length} shown`
    : "0 shown";
}

/* Scroll the selected card to the middle of the window, or to its top if the card is taller than the window. */
export function scrollToSelected() {
  const barHeight = Number.parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop);
  const isTall = selected.card.offsetHeight > innerHeight - barHeight;
  selected.card.scrollIntoView({ block: isTall ? "start" : "center" });
}

export function focusSelected() {
  selected.card.focus({ preventScroll: true });
}
