// Export of flags, ratings and notes as a TSV table.

import { estimatedDiceText, scans } from "./data.js";
import { markExported } from "./storage.js";

// These are those of escaping.py.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this escapes
const UNSAFE = /[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/gu;
const NAMED_ESCAPES = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };
const FORMULA_STARTS = [..."=+-@\uff1d\uff0b\uff0d\uff20'\""];
const NUMBER = /^[-+]?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|inf|nan)$/;

function escapeCharacter(character) {
  if (character in NAMED_ESCAPES) return NAMED_ESCAPES[character];
  const code = character.codePointAt(0);
  const isByte = code >= 0xdc80 && code <= 0xdcff; // how Python holds the byte of a name that is not UTF-8
  if (isByte || code < 0x80) return `\\x${(isByte ? code - 0xdc00 : code).toString(16).padStart(2, "0")}`;
  return `\\u${code.toString(16).padStart(4, "0")}`;
}

/* Text as a cell that cannot break the table or start a formula in a spreadsheet. `to_cell` in escaping.py does the
   same. */
function toCell(text) {
  const cell = text
    .replaceAll("\\", "\\\\")
    .replace(UNSAFE, escapeCharacter)
    .replace(/^\s|\s$/g, escapeCharacter);
  return FORMULA_STARTS.includes(cell[0]) && !NUMBER.test(cell) ? `'${cell}` : cell;
}

/* The table: every scan in the order of the data, whatever the list shows. */
function ratingsTable() {
  const header = ["name", "flag", "estimated_dice", "rating", "note"];
  const rows = scans.map((scan) => [scan.name, scan.flag, estimatedDiceText(scan, 4), scan.rating, scan.comment]);
  return [header, ...rows].map((row) => `${row.map(toCell).join("\t")}\n`).join("");
}

export function downloadRatings() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([ratingsTable()], { type: "text/tab-separated-values" }));
  link.download = "ratings.tsv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000); // some browsers read it only after the click
  markExported();
}
