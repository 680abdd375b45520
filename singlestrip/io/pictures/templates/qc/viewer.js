// The viewer: the selected scan's picture, as large as the window.

import { showFlag } from "./cards.js";
import { byId } from "./data.js";
import { focusSelected, selected } from "./list.js";

export function viewerIsOpen() {
  return byId("viewer").open;
}

/* Show the selected scan in the viewer. */
export function updateViewer() {
  const hasPicture = selected.picture !== null;
  byId("viewer-name").textContent = selected.name;
  showFlag(byId("viewer-flag"), selected.flag);
  byId("viewer-rating").textContent = selected.rating ? `rated ${selected.rating}` : "not rated";
  byId("viewer-picture").hidden = !hasPicture;
  if (hasPicture) byId("viewer-picture").src = selected.picture;
  byId("viewer-picture").alt = `Slices of ${selected.name}`;
  byId("viewer-absent").textContent = hasPicture ? "" : "No picture";
}

export function openViewer() {
  updateViewer();
  if (viewerIsOpen()) return;
  // A closing dialog gives the focus back to what had it, and a card with the focus becomes selected.
  document.activeElement.blur();
  byId("viewer").showModal();
}

export function closeViewer() {
  byId("viewer").close();
}

/* Close the viewer if it is open, and put the cursor in a field of the page. */
export function goToField(field) {
  closeViewer();
  field.focus();
}

/* Runs when the viewer has closed. */
export function onViewerClosed() {
  const isInField = document.activeElement.closest("input, textarea");
  if (!isInField) focusSelected();
}
