// A frame of this site is as high as what is in it, so that it has no scroll bar of its own.
for (const frame of document.querySelectorAll("iframe.frame")) {
  const grow = () => {
    const body = frame.contentDocument?.body;
    if (!body || frame.contentDocument.URL === "about:blank") return;
    const fit = () => {
      const high = body.getBoundingClientRect().height;
      if (high > 100) frame.style.height = `${Math.ceil(high) + 2}px`;
    };
    new frame.contentWindow.ResizeObserver(fit).observe(body);
    fit();
  };
  frame.addEventListener("load", grow);
  if (frame.contentDocument?.readyState === "complete") grow();
}
