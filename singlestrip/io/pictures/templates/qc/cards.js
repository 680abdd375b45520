// The card of a scan: its picture, numbers, flag, rating and note. page.html holds the card's template.

import { byId, data, estimatedDiceText } from "./data.js";

const NO_VALUE = "–";
const scanOf = new Map(); // card to scan

/* The scan whose card holds this element, or undefined. */
export function scanAt(element) {
  return scanOf.get(element.closest(".card"));
}

/* An element of a scan's card, by the name in its data-part attribute. */
export function cardPart(scan, name) {
  return scan.card.querySelector(`[data-part="${name}"]`);
}

export function showFlag(element, flag) {
  element.dataset.flag = flag;
  element.textContent = flag;
}

function addNumber(scan, title, text) {
  const pair = document.createElement("div");
  const term = document.createElement("dt");
  const value = document.createElement("dd");
  term.textContent = title;
  value.textContent = text || NO_VALUE;
  pair.append(term, value);
  cardPart(scan, "numbers").append(pair);
}

function placeholder(text) {
  const box = document.createElement("div");
  box.className = "absent";
  box.textContent = text;
  return box;
}

function addPicture(scan) {
  const button = cardPart(scan, "picture");
  if (scan.picture === null) {
    button.replaceWith(placeholder("No picture"));
    return;
  }
  const image = button.querySelector("img");
  button.setAttribute("aria-label", `Enlarge the picture of ${scan.name}`);
  image.alt = `Slices of ${scan.name}`;
  image.addEventListener("error", () => button.replaceWith(placeholder(`Picture not found: ${scan.picture}`)));
  image.src = scan.picture;
}

/* Make a scan's card. The list puts it on the page. */
export function makeCard(scan) {
  scan.card = byId("card").content.firstElementChild.cloneNode(true);
  scanOf.set(scan.card, scan);
  scan.card.dataset.flag = scan.flag;
  scan.card.setAttribute("aria-label", `${scan.name}, ${scan.flag}`);
  cardPart(scan, "name").textContent = scan.name;
  showFlag(cardPart(scan, "flag"), scan.flag);
  addNumber(scan, "Estimated Dice", estimatedDiceText(scan, 3));
  data.columns.forEach((title, column) => {
    addNumber(scan, title, scan.numbers[column]);
  });
  cardPart(scan, "note").textContent = scan.note;
  cardPart(scan, "note").hidden = !scan.note;
  cardPart(scan, "rate").setAttribute("aria-label", `Your rating of ${scan.name}`);
  cardPart(scan, "comment").setAttribute("aria-label", `Your note on ${scan.name}`);
  addPicture(scan);
}

/* Show a scan's rating and note on its card. */
export function showOnCard(scan) {
  for (const button of cardPart(scan, "rate").children)
    button.setAttribute("aria-pressed", String(button.dataset.rate === scan.rating));
  // Setting an equal text would move the cursor of someone who types.
  if (cardPart(scan, "comment").value !== scan.comment) cardPart(scan, "comment").value = scan.comment;
}
