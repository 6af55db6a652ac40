// A worker in a hidden frame, where the site is opened as files: browsers start no worker from a file.
// The search of the theme needs postMessage, onmessage and importScripts of it, and nothing else.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.frame = frame;
      window.addEventListener("message", (event) => {
        if (event.source !== frame.contentWindow) return;
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        if (this.onmessage) this.onmessage(copy);
      });
      const inner = frame.contentWindow.document;
      const source = String(url).replace(/&/g, "&amp;").replace(/"/g, "&quot;");
      inner.open();
      inner.write(
        "<!doctype html><body><script>postMessage = parent.postMessage.bind(parent)</scr" + "ipt>" +
          `<script src="${source}"></scr` + "ipt>"
      );
      this.ready = new Promise((resolve, reject) => {
        frame.contentWindow.onload = resolve;
        frame.contentWindow.onerror = reject;
      });
      inner.close();
    }
    postMessage(data) {
      this.ready.then(() => {
        const event = new this.frame.contentWindow.MessageEvent("message", { data });
        this.frame.contentWindow.dispatchEvent(event);
      });
    }
    terminate() {
      this.frame.remove();
    }
  };
}
