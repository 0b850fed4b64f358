"""Controls of a page that lie over other controls or over words, found in a real browser."""

OVERLAPS = """
() => {
  const shown = e => {
    // What stands in a closed <details> has a box, and is not drawn.
    if (!e.checkVisibility({ contentVisibilityAuto: true })) return false;
    for (let p = e; p; p = p.parentElement) {
      const c = getComputedStyle(p);
      if (c.clip !== 'auto' || c.clipPath !== 'none' || c.visibility === 'hidden') return false;
    }
    const r = e.getBoundingClientRect();
    return r.width > 1 && r.height > 1;
  };
  const name = e => `${e.tagName.toLowerCase()} ${(e.innerText || e.getAttribute('aria-label') ||
    e.name || '').trim().slice(0, 24)}`;
  const all = selector => [...document.querySelectorAll(selector)].filter(shown);
  const controls = all('a[href], button, input, select, textarea, summary, [role=button]');
  const things = [...new Set([...controls, ...all('.pill, th, h1, h2, h3, label, time, dt, p')])];
  const found = [];
  for (const a of controls) for (const b of things) {
    if (a === b || a.contains(b) || b.contains(a)) continue;
    // Each line of a link by itself: the box around a link of two lines holds other words, too.
    const overlap = [...a.getClientRects()].some(x => [...b.getClientRects()].some(y =>
      Math.min(x.right, y.right) - Math.max(x.left, y.left) > 2 &&
      Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top) > 3));
    if (overlap) found.push(`${name(a)} over ${name(b)}`);
  }
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return wide > 0 ? [...found, `${wide} px too wide`] : found;
}
"""
