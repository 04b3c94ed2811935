// The pretrained models: what is on its way in says how far it is, and a model's sum can be copied.

import "./copying.js";
import { refreshImports } from "./imports.js";

async function refresh() {
  if (!document.hidden) await refreshImports();
  setTimeout(refresh, 1000);
}
refresh();
