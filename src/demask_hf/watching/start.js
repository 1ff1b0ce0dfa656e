"use strict";

// Shows the traces that stand in the page.

const traces = JSON.parse(byId("traces").textContent).map((trace) => new Views(trace));
document.title = `${traces.map((trace) => trace.title).join(", ")}: how the answer was decoded`;
new Player().load(traces);
