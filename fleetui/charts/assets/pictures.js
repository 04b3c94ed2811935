// The chart as a file: plotly draws it in the browser, on the page's own ground.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.pictures = {
  save() {
    const format = window.dash_clientside.callback_context.triggered[0]?.prop_id.startsWith("svg") ? "svg" : "png";
    const graph = document.querySelector("#comparison .js-plotly-plot");
    if (!graph) return null;
    const ground = getComputedStyle(document.body).backgroundColor;
    const figure = { data: graph.data, layout: { ...graph.layout, paper_bgcolor: ground } };
    window.Plotly.downloadImage(figure, { format, width: 1200, height: 700, scale: format === "png" ? 2 : 1,
      filename: "comparison" });
    return format;
  },
};
