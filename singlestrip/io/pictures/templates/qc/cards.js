// The card of a scan: its picture, numbers, flag, rating and note. page.html holds the card's template.

import { byId, data, estimatedDiceText } from "./data.js";

const NO_VALUE = "–";
const BAR_FROM = 0.5; // the bar of an interval begins at this Dice and ends at 1
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

/* The interval of the estimated Dice as text and as a bar with a mark at the estimate. */
function addInterval(scan) {
  const [low, high] = scan.interval;
  const text = document.createElement("dd");
  text.className = "interval";
  text.textContent = `${low.toFixed(3)} to ${high.toFixed(3)}`;
  const bar = document.createElement("dd");
  bar.className = "range";
  bar.setAttribute("aria-hidden", "true");
  const percent = (dice) => 100 * Math.max(0, (dice - BAR_FROM) / (1 - BAR_FROM));
  const [interval, mark] = [low, scan.estimated_dice].map((dice) => {
    const part = document.createElement("i");
    part.style.left = `${percent(dice)}%`;
    return part;
  });
  interval.style.width = `${percent(high) - percent(low)}%`;
  bar.append(interval, mark);
  cardPart(scan, "numbers").firstElementChild.append(text, bar);
}

function addReason(scan, reason) {
  const chip = document.createElement("button");
  chip.type = "button";
  chip.className = "chip";
  chip.dataset.reason = reason.group;
  chip.textContent = reason.text;
  chip.title = `Show all scans of this kind: ${reason.group}`;
  const item = document.createElement("li");
  item.append(chip);
  cardPart(scan, "reasons").append(item);
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
  if (scan.interval !== null) addInterval(scan);
  data.columns.forEach((title, column) => {
    addNumber(scan, title, scan.numbers[column]);
  });
  if (scan.evidence) addNumber(scan, "judged by", scan.evidence);
  for (const reason of scan.reasons) addReason(scan, reason);
  cardPart(scan, "reasons").hidden = !scan.reasons.length;
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
