// Fill the page, and connect its controls to what they do.

import { makeCard, scanAt } from "./cards.js";
import { byId, data, scans } from "./data.js";
import { downloadRatings } from "./export.js";
import { onKey, showKeys } from "./keyboard.js";
import { fillReasonMenu, fillSortMenu, select, setFilter, showAllScans, updateList } from "./list.js";
import { rate, setComment, showAllRatings } from "./review.js";
import { loadRatings, RATINGS_KEY, wouldLoseRatings } from "./storage.js";
import { switchTheme } from "./theme.js";
import { closeViewer, onViewerClosed, openViewer } from "./viewer.js";

/* Make a listener that selects the scan of the card in which an event happens, then calls `act(scan, element)`. */
function onCard(act) {
  return (event) => {
    const scan = scanAt(event.target);
    if (!scan) return;
    select(scan);
    act?.(scan, event.target);
  };
}

/* A click on the pressed rating removes it. */
function onCardClick(scan, element) {
  const rating = element.closest("[data-rate]")?.dataset.rate;
  const reason = element.closest("[data-reason]")?.dataset.reason;
  if (rating) rate(scan, scan.rating === rating ? "" : rating);
  else if (reason) setFilter("reason", reason);
  else if (element.closest(".picture")) openViewer();
}

function onFilterClick(event) {
  const button = event.target.closest("button");
  if (button) setFilter(event.currentTarget.dataset.filter, button.dataset.value);
}

function connectCards() {
  const cards = byId("scans");
  cards.addEventListener("focusin", onCard());
  cards.addEventListener("click", onCard(onCardClick));
  cards.addEventListener(
    "input",
    onCard((scan, field) => setComment(scan, field.value)),
  );
}

function connectBar() {
  for (const group of document.querySelectorAll("[data-filter]")) group.addEventListener("click", onFilterClick);
  byId("search").addEventListener("input", updateList);
  byId("sort").addEventListener("change", updateList);
  byId("reason").addEventListener("change", (event) => setFilter("reason", event.target.value));
  byId("show-all").addEventListener("click", showAllScans);
  byId("show-keys").addEventListener("click", showKeys);
  byId("theme").addEventListener("click", switchTheme);
  byId("export").addEventListener("click", downloadRatings);
}

function connectViewer() {
  byId("close-viewer").addEventListener("click", closeViewer);
  byId("viewer-picture").addEventListener("click", closeViewer);
  byId("viewer").addEventListener("close", onViewerClosed);
}

/* Tell the style sheet the height of the bar, so that the bar covers no card that the page scrolls to. */
function measureBar() {
  new ResizeObserver(([bar]) => {
    const isSticky = getComputedStyle(bar.target).position === "sticky";
    document.documentElement.style.setProperty("--bar", isSticky ? `${bar.target.offsetHeight}px` : "0px");
  }).observe(byId("bar"));
}

/* Take over what the user rates on the same page in another tab. */
function followOtherTabs() {
  addEventListener("storage", (event) => {
    if (event.key !== RATINGS_KEY) return;
    loadRatings();
    showAllRatings();
  });
}

/* Let the browser ask before it closes a page whose ratings would be lost. */
function guardRatings() {
  addEventListener("beforeunload", (event) => {
    if (wouldLoseRatings()) event.preventDefault();
  });
}

function start() {
  history.scrollRestoration = "manual"; // a reloaded page starts at its first scan, which is the selected one
  document.title = data.title;
  byId("title").textContent = data.title;
  byId("about").textContent = data.about;
  fillSortMenu();
  fillReasonMenu();
  scans.forEach(makeCard);
  loadRatings();
  showAllRatings();
  updateList();
  connectCards();
  connectBar();
  connectViewer();
  measureBar();
  followOtherTabs();
  guardRatings();
  document.addEventListener("keydown", onKey);
}

start();
