// The script of the researcher's page: parts that the server draws anew come as server-sent events and replace the old ones.
"use strict";
function put(id, text) {
  const place = document.getElementById(id);
  if (!place || place.contains(document.activeElement)) return; // nobody loses the place that they stand at
  const scrolled = [...place.querySelectorAll(".log, .scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
  const ticked = new Set([...place.querySelectorAll("input:checked")].map((one) => one.value));
  place.innerHTML = text; // drawn by the server, where texts of others are escaped
  for (const one of place.querySelectorAll("input[type=checkbox]")) one.checked = ticked.has(one.value);
  [...place.querySelectorAll(".log, .scroll")].forEach((one, number) => {
    if (scrolled[number]) [one.scrollLeft, one.scrollTop] = scrolled[number];
  });
}
const place = document.querySelector("[data-stream]");
if (place) {
  const source = new EventSource(place.dataset.stream + location.search);
  source.addEventListener("parts", (event) => {
    for (const [id, text] of Object.entries(JSON.parse(event.data))) put(id, text);
  });
  addEventListener("pagehide", () => source.close());
}
