// The script of fedjob's pages: it hands the one-time link over, which stands behind the # of the address.
"use strict";
const field = document.querySelector("input[name=link]");
const secret = location.hash.slice(1);
if (field && secret) {
  history.replaceState(null, "", location.pathname); // not into the history, and not into a screenshot
  field.value = secret;
  field.form.submit();
}
