// Ratings and notes in the browser's local storage.

import { byId, data, scans } from "./data.js";

/* Pages that differ in their title, scans or estimated Dice keep their ratings apart. */
export const RATINGS_KEY =
  "singlestrip-qc-ratings-" +
  fingerprint([data.title, ...scans.map((scan) => `${scan.name} ${scan.estimated_dice}`).sort()]);

let canStore = true;
let hasUnexported = false; // whether a rating or note has changed since the last export

/* A hash of 53 bits (cyrb53), in base 36. */
function fingerprint(texts) {
  let high = 0xdeadbeef;
  let low = 0x41c6ce57;
  for (const character of JSON.stringify(texts)) {
    high = Math.imul(high ^ character.codePointAt(0), 2654435761);
    low = Math.imul(low ^ character.codePointAt(0), 1597334677);
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909);
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909);
  return (4294967296 * (low & 0x1fffff) + (high >>> 0)).toString(36);
}

function warnNotStored() {
  canStore = false;
  byId("not-stored").hidden = false;
}

/* Read the rating and note of every scan. */
export function loadRatings() {
  try {
    const rows = JSON.parse(localStorage.getItem(RATINGS_KEY) ?? "[]");
    const rowOf = new Map(rows.map((row) => [row[0], row]));
    for (const scan of scans) [, scan.rating, scan.comment] = rowOf.get(scan.name) ?? [scan.name, "", ""];
  } catch {
    warnNotStored();
  }
}

/* Store the rating and note of every scan that has one. */
export function saveRatings() {
  hasUnexported = true;
  const rated = scans.filter((scan) => scan.rating || scan.comment);
  try {
    localStorage.setItem(RATINGS_KEY, JSON.stringify(rated.map((scan) => [scan.name, scan.rating, scan.comment])));
  } catch {
    warnNotStored();
  }
}

export function markExported() {
  hasUnexported = false;
}

/* Whether ratings are lost if the page closes now. */
export function wouldLoseRatings() {
  return !canStore && hasUnexported;
}
