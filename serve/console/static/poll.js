// Ask again every so often, until the page is left; a failure is shown and does not end it.

import { pause } from "./api.js";

export async function every(ms, signal, place, draw) {
  let alert = null;
  while (!signal.aborted) {
    try {
      await draw();
      alert?.remove();
    } catch (error) {
      if (signal.aborted) return;
      alert?.remove();
      alert = document.createElement("p");
      alert.setAttribute("role", "alert");
      alert.className = "bad";
      alert.textContent = error.message;
      place.prepend(alert);
    }
    await pause(ms, signal);
  }
}
