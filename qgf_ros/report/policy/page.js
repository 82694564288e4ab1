// What the panels share: the document, and which moment of which episode is looked at.
"use strict";

const told = JSON.parse($("document").textContent);
