// The scans of the page, as page.py wrote them.

export const byId = (id) => document.getElementById(id);

/* { title, about, columns, scans }: `columns` are the titles of each scan's `numbers`. */
export const data = JSON.parse(byId("data").textContent);

/* Each scan has name, flag, estimated_dice, picture, numbers, note, interval, evidence and reasons from the data;
   rating and comment from the user; and its card on the page. */
export const scans = data.scans.map((scan) => ({ ...scan, rating: "", comment: "", card: null }));

/* The estimated Dice as text, empty if there is none. */
export function estimatedDiceText(scan, digits) {
  return scan.estimated_dice === null ? "" : scan.estimated_dice.toFixed(digits);
}
