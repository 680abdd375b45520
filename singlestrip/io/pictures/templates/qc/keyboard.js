// What each key does. The dialog in page.html lists the keys for the user.

import { cardPart } from "./cards.js";
import { byId } from "./data.js";
import { focusSelected, selected } from "./list.js";
import { rate, rateAndStep, step } from "./review.js";
import { closeViewer, goToField, openViewer, viewerIsOpen } from "./viewer.js";

const STEP_KEYS = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
const RATING_KEYS = { p: "pass", l: "look", f: "fail" };
const ACTIONS = {
  u: () => rate(selected, ""),
  n: () => goToField(cardPart(selected, "comment")),
  o: () => (viewerIsOpen() ? closeViewer() : openViewer()),
  Enter: openViewer,
};

export function showKeys() {
  byId("keys").showModal();
}

/* Whether the element with the focus needs this key itself. */
function needsKey(element, key) {
  if (element.closest("input, textarea")) return true;
  if (element.closest("select")) return key.length > 1 || key === " ";
  return key === "Enter" && element.closest("button") !== null;
}

/* Escape leaves a field. */
function onKeyInField(event) {
  if (event.key !== "Escape" || !event.target.closest("input, textarea")) return;
  event.preventDefault();
  if (selected) focusSelected();
  else event.target.blur();
}

/* The action of a key, or null. A key that is held down steps on, but does not rate scan after scan. */
function actionOf(key, isHeld) {
  if (key === "?") return showKeys;
  if (key === "/") return () => goToField(byId("search"));
  if (!selected) return null;
  if (key in STEP_KEYS) return () => step(STEP_KEYS[key]);
  if (key in RATING_KEYS) return isHeld ? () => {} : () => rateAndStep(RATING_KEYS[key]);
  return ACTIONS[key] ?? null;
}

export function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || byId("keys").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (needsKey(event.target, key)) {
    onKeyInField(event);
    return;
  }
  const action = actionOf(key, event.repeat);
  if (!action) return;
  event.preventDefault();
  action();
}
