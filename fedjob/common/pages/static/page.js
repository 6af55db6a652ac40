// The script of fedjob's pages: it hands the one-time link over, which stands behind the # of the address.
"use strict";
const field = document.querySelector("input[name=link]");
function enter() {
  const secret = location.hash.slice(1);
  if (!field || !secret) return;
  history.replaceState(null, "", location.pathname); // not into the history, and not into a screenshot
  field.value = secret;
  field.form.submit();
}
addEventListener("hashchange", enter); // a link that is opened while this page is open
enter();
