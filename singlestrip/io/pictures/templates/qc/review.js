// Step from scan to scan, and rate them.

import { showOnCard } from "./cards.js";
import { byId, scans } from "./data.js";
import { focusSelected, scrollToSelected, select, selected, showCounts, shown } from "./list.js";
import { saveRatings } from "./storage.js";
import { updateViewer, viewerIsOpen } from "./viewer.js";

/* Select the scan so many places further down the list, if there is one. */
export function step(places) {
  const next = shown[shown.indexOf(selected) + places];
  if (!next) return;
  select(next);
  scrollToSelected();
  if (viewerIsOpen()) updateViewer();
  else focusSelected();
}

/* Show the ratings and notes of these scans wherever they appear. */
function showRatings(changed) {
  changed.forEach(showOnCard);
  if (viewerIsOpen()) updateViewer();
  showCounts();
}

export function showAllRatings() {
  showRatings(scans);
}

/* Rate a scan "pass", "look" or "fail"; "" removes its rating. */
export function rate(scan, rating) {
  scan.rating = rating;
  saveRatings();
  showRatings([scan]);
  byId("spoken").textContent = rating ? `${scan.name}: rated ${rating}` : `${scan.name}: not rated`;
}

export function rateAndStep(rating) {
  rate(selected, rating);
  step(1);
}

export function setComment(scan, text) {
  scan.comment = text;
  saveRatings();
}
