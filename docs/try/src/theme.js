// Light or dark colours. The page runs this file in its head, before the first paint.

const systemPrefersDark = matchMedia("(prefers-color-scheme: dark)");

function followSystem() {
  document.documentElement.dataset.theme = systemPrefersDark.matches ? "dark" : "light";
}

export function switchTheme() {
  const { dataset } = document.documentElement;
  dataset.theme = dataset.theme === "dark" ? "light" : "dark";
}

followSystem();
systemPrefersDark.addEventListener("change", followSystem);
