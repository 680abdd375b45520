// Light or dark colours. The page runs this file in its head, before the first paint, so that a dark page does not
// flash white.

const THEME_KEY = "singlestrip-qc-theme";
const systemPrefersDark = matchMedia("(prefers-color-scheme: dark)");

function systemTheme() {
  return systemPrefersDark.matches ? "dark" : "light";
}

/* The theme that the user chose, or null. A browser may forbid storage. */
function storedTheme() {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null;
  }
}

function applyTheme() {
  document.documentElement.dataset.theme = storedTheme() ?? systemTheme();
}

/* Switch between light and dark. A choice equal to the system's is not stored: the page then follows the system. */
export function switchTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    if (theme === systemTheme()) localStorage.removeItem(THEME_KEY);
    else localStorage.setItem(THEME_KEY, theme);
  } catch {
    // Without storage the choice lasts until the page is closed.
  }
  document.documentElement.dataset.theme = theme;
}

applyTheme();
systemPrefersDark.addEventListener("change", applyTheme);
