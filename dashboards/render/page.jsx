// One dashboard, drawn with Grafana's panel components from answers that render.py has asked Prometheus for.
//
// window.BOARD = {dashboard, variables: [[label, value]], from, to, answers: {panel id: [{target, result, step}]},
//                 annotations: [{name, colour, spans: [[from, to]]}]}

import {
  applyFieldOverrides, cacheFieldDisplayNames, createDataFrame, createFieldConfigRegistry, createTheme, dateTime, FieldType,
  getDisplayValueAlignmentFactors, getFieldDisplayValues, getFieldSeriesColor, renderTextPanelMarkdown, standardFieldConfigEditorRegistry,
  standardTransformers, standardTransformersRegistry, transformDataFrame,
  booleanOverrideProcessor, dataLinksOverrideProcessor, displayNameOverrideProcessor, identityOverrideProcessor,
  numberOverrideProcessor, stringOverrideProcessor, thresholdsOverrideProcessor, unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from "@grafana/data";
import {
  BarGauge, BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries, VizRepeater,
} from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { lastValueFrom } from "rxjs";

import "@fontsource/inter/400.css";
import "@fontsource/inter/500.css";
import "@fontsource/inter/600.css";
import { Gauge, Heatmap, StateTimeline } from "./own.jsx";

const theme = createTheme({ colors: { mode: "light" } });
const board = window.BOARD;
const WIDTH = 1600, EDGE = 16, CELL = 30, GAP = 8;

// --- what Grafana's server part registers at its start ------------------------------------------------------------------

const STANDARD = {
  displayName: displayNameOverrideProcessor, unit: unitOverrideProcessor, min: numberOverrideProcessor,
  max: numberOverrideProcessor, decimals: numberOverrideProcessor, noValue: stringOverrideProcessor,
  color: identityOverrideProcessor, thresholds: thresholdsOverrideProcessor, mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor, fieldMinMax: booleanOverrideProcessor, filterable: booleanOverrideProcessor,
};

function property(id, process, isCustom = false) {
  return {
    id: isCustom ? `custom.${id}` : id, path: id, name: id, isCustom, process, settings: {}, shouldApply: () => true,
    editor: () => null, override: () => null, getItemsCount: () => 0,
  };
}

standardFieldConfigEditorRegistry.setInit(() => Object.entries(STANDARD).map(([id, process]) => property(id, process)));
standardTransformersRegistry.setInit(() =>
  Object.values(standardTransformers)
    .filter((one, index, all) => all.findIndex((other) => other.id === one.id) === index)
    .map((one) => ({ id: one.id, name: one.name, transformation: async () => one })),
);

// What a time series panel has where the dashboard says nothing.
const TIME_SERIES_DEFAULTS = {
  drawStyle: "line", lineInterpolation: "linear", lineWidth: 1, fillOpacity: 0, gradientMode: "none", showPoints: "auto",
  pointSize: 5, spanNulls: false, barAlignment: 0, barWidthFactor: 0.6, axisPlacement: "auto", axisLabel: "",
  axisColorMode: "text", axisBorderShow: false, scaleDistribution: { type: "linear" }, axisCenteredZero: false,
  stacking: { group: "A", mode: "none" }, thresholdsStyle: { mode: "off" }, hideFrom: { legend: false, tooltip: false, viz: false },
};

function configured(panel, frames) {
  const fieldConfig = structuredClone(panel.fieldConfig ?? { defaults: {}, overrides: [] });
  if (panel.type === "timeseries") {
    fieldConfig.defaults.custom = { ...TIME_SERIES_DEFAULTS, ...fieldConfig.defaults.custom };
  }
  for (const steps of thresholdsIn(fieldConfig)) {
    if (steps[0]?.value == null) steps[0].value = -Infinity;
  }
  const custom = new Set(Object.keys(fieldConfig.defaults.custom ?? {}));
  for (const { properties } of fieldConfig.overrides) {
    properties.filter(({ id }) => id.startsWith("custom.")).forEach(({ id }) => custom.add(id.slice("custom.".length)));
  }
  const registry = createFieldConfigRegistry({}, panel.type);
  custom.forEach((id) => registry.register(property(id, identityOverrideProcessor, true)));
  const series = applyFieldOverrides({
    data: frames, fieldConfig, fieldConfigRegistry: registry, replaceVariables: (text) => text, theme, timeZone: "utc",
  });
  cacheFieldDisplayNames(series);
  return { series, fieldConfig };
}

function* thresholdsIn(fieldConfig) {
  if (fieldConfig.defaults.thresholds) yield fieldConfig.defaults.thresholds.steps;
  for (const { properties } of fieldConfig.overrides) {
    for (const { id, value } of properties) if (id === "thresholds") yield value.steps;
  }
}

// --- from Prometheus's answers to Grafana's frames --------------------------------------------------------------------

const number = (text) => (text === "NaN" ? NaN : text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text));

function legend(target, labels) {
  if (!target.legendFormat || target.legendFormat === "__auto") return undefined;
  return target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "");
}

function seriesFrame({ target, step, from, to }, { metric, value, values }) {
  const points = values ?? [value];
  const at = new Map(points.map(([time, text]) => [Math.round(time * 1000), number(text)]));
  const times = values ? [] : [...at.keys()];
  // Like Grafana's own client: a step without a sample is a null, so that the line breaks there.
  if (values) for (let time = from; time <= to; time += step) times.push(time * 1000);
  const { __name__, ...labels } = metric;
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: "Time", type: FieldType.time, values: times, config: {} },
      {
        name: __name__ ?? "Value", type: FieldType.number, labels, values: times.map((time) => at.get(time) ?? null),
        config: { displayNameFromDS: legend(target, labels) ?? (Object.keys(labels).length ? undefined : target.expr) },
      },
    ],
  });
}

function tableFrame({ target, result }, letters) {
  const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: "Time", type: FieldType.time, values: result.map(({ value }) => value[0] * 1000), config: {} },
      ...labels.map((label) => ({
        name: label, type: FieldType.string, values: result.map(({ metric }) => metric[label] ?? ""), config: {},
      })),
      {
        name: letters ? `Value #${target.refId}` : "Value", type: FieldType.number,
        values: result.map(({ value }) => number(value[1])), config: {},
      },
    ],
  });
}

async function framesOf(panel) {
  const answers = (board.answers[panel.id] ?? []).filter(({ target }) => !target.hide);
  const tables = answers.filter(({ target, result }) => target.format === "table" && result.length);
  const frames = answers.flatMap((answer) =>
    answer.target.format === "table"
      ? answer.result.length ? [tableFrame(answer, tables.length > 1 || answers.length > 1)] : []
      : answer.result.map((one) => seriesFrame(answer, one)),
  );
  const transformations = panel.transformations ?? [];
  if (!transformations.length || !frames.length) return frames;
  return lastValueFrom(transformDataFrame(transformations, frames, { interpolate: (text) => text }));
}

// --- the kinds of panel -----------------------------------------------------------------------------------------------

function timeRangeOf(answer) {
  const from = dateTime((answer?.shown_from ?? board.from) * 1000), to = dateTime(board.to * 1000);
  return { from, to, raw: { from, to } };
}

function Empty({ panel }) {
  return <div style={{ display: "grid", placeItems: "center", height: "100%", color: theme.colors.text.secondary }}>
    {panel.fieldConfig?.defaults?.noValue ?? "No data"}
  </div>;
}

function drawAnnotations(builder) {
  builder.addHook("draw", (u) => {
    const { ctx } = u, { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    for (const { colour, spans } of board.annotations) {
      ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(colour);
      for (const [from, to] of spans) {
        const [x0, x1] = [from, to].map((time) => u.valToPos(time * 1000, "x", true));
        ctx.globalAlpha = 0.1;
        ctx.fillRect(x0, top, x1 - x0, height);
        ctx.globalAlpha = 0.8;
        ctx.setLineDash([5, 5]);
        for (const x of new Set([x0, x1])) {
          ctx.beginPath();
          ctx.moveTo(x, top);
          ctx.lineTo(x, top + height);
          ctx.stroke();
        }
      }
    }
    ctx.restore();
  });
  return null;
}

function values(panel, frames) {
  const { series, fieldConfig } = configured(panel, frames);
  return getFieldDisplayValues({
    fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme, data: series,
    timeZone: "utc",
  });
}

const KINDS = {
  timeseries({ panel, frames, width, height }) {
    if (!frames.length) return <Empty panel={panel} />;
    const { series } = configured(panel, frames);
    // Where series are joined for the plot their names are lost, and with them the colours that go by name.
    for (const field of series.flatMap(({ fields }) => fields.slice(1))) {
      field.config.color = { mode: "fixed", fixedColor: getFieldSeriesColor(field, theme).color };
    }
    return <TimeSeries frames={series} width={width} height={height} timeZone="utc" legend={panel.options.legend}
      timeRange={timeRangeOf(board.answers[panel.id][0])} structureRev={1} options={panel.options}>
      {drawAnnotations}
    </TimeSeries>;
  },
  stat({ panel, frames, width, height }) {
    const { options } = panel;
    return <VizRepeater autoGrid source={frames} getValues={() => values(panel, frames)} width={width} height={height}
      renderCounter={1} itemSpacing={3} orientation={options.orientation}
      renderValue={({ value, width, height, count }) =>
        <BigValue value={value.display} count={count} width={width} height={height} theme={theme} graphMode="none"
          colorMode={options.colorMode} justifyMode={options.justifyMode} textMode={options.textMode}
          wideLayout={options.wideLayout} text={options.text} />} />;
  },
  gauge({ panel, frames, width, height }) {
    return <VizRepeater autoGrid source={frames} getValues={() => values(panel, frames)} width={width} height={height}
      renderCounter={1} orientation={panel.options.orientation}
      renderValue={({ value, width, height, count }) =>
        <Gauge value={value.display} field={value.field} width={width} height={height} named={count > 1} theme={theme} />} />;
  },
  bargauge({ panel, frames, width, height }) {
    const { options } = panel;
    return <VizRepeater source={frames} getValues={() => values(panel, frames)} width={width} height={height}
      getAlignmentFactors={getDisplayValueAlignmentFactors} renderCounter={1} orientation={options.orientation}
      minVizWidth={options.minVizWidth} minVizHeight={options.minVizHeight} maxVizHeight={options.maxVizHeight ?? 300}
      itemSpacing={options.displayMode === "lcd" ? 2 : 10}
      renderValue={({ value, width, height, orientation, alignmentFactors, count }) =>
        <BarGauge value={count === 1 ? { ...value.display, title: undefined } : value.display} width={width} height={height}
          orientation={orientation} field={value.field} text={options.text} display={value.view?.getFieldDisplayProcessor(value.colIndex ?? 0)}
          theme={theme} itemSpacing={10} displayMode={options.displayMode} alignmentFactors={alignmentFactors}
          showUnfilled={options.showUnfilled} valueDisplayMode={options.valueMode} namePlacement={options.namePlacement} />} />;
  },
  table({ panel, frames, width, height }) {
    const { series, fieldConfig } = configured(panel, frames);
    if (!series.length || !series[0].length) return <Empty panel={panel} />;
    return <TableNG data={series[0]} width={width} height={height} sortBy={panel.options.sortBy} noHeader={!panel.options.showHeader}
      cellHeight={panel.options.cellHeight} fieldConfig={fieldConfig} structureRev={1} enableVirtualization={false}
      noValue={fieldConfig.defaults.noValue} />;
  },
  text({ panel }) {
    return <div className="markdown-html" dangerouslySetInnerHTML={{ __html: renderTextPanelMarkdown(panel.options.content) }} />;
  },
  "state-timeline"({ panel, frames, width, height }) {
    if (!frames.length) return <Empty panel={panel} />;
    const { series } = configured(panel, frames);
    return <StateTimeline series={series} width={width} height={height} theme={theme}
      range={timeRangeOf(board.answers[panel.id][0])} legend={panel.options.legend?.showLegend} mappings={panel.fieldConfig.defaults.mappings} />;
  },
  heatmap({ panel, width, height }) {
    const answer = board.answers[panel.id][0];
    if (!answer.result.length) return <Empty panel={panel} />;
    return <Heatmap answer={answer} width={width} height={height} theme={theme} range={timeRangeOf(answer)}
      unit={panel.options.yAxis?.unit ?? panel.fieldConfig.defaults.unit} />;
  },
};

function Content(props) {
  const [frames, setFrames] = useState(null);
  useEffect(() => void framesOf(props.panel).then(setFrames, (error) => setFrames(error)), [props.panel]);
  if (frames === null) return null;
  if (frames instanceof Error) return <pre>{String(frames.stack)}</pre>;
  const Kind = KINDS[props.panel.type] ?? (() => `No drawing of ${props.panel.type}`);
  return <Kind {...props} frames={frames} />;
}

// --- the page ---------------------------------------------------------------------------------------------------------

function place({ x, y, w, h }) {
  const column = (WIDTH - 2 * EDGE - 23 * GAP) / 24;
  return {
    left: EDGE + x * (column + GAP), top: y * (CELL + GAP), width: w * column + (w - 1) * GAP,
    height: h * CELL + (h - 1) * GAP,
  };
}

function Page() {
  const { panels, title } = board.dashboard;
  const bottom = Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h)) * (CELL + GAP);
  const { text, border, background } = theme.colors;
  const time = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);
  return <ThemeContext.Provider value={theme}>
    <GlobalStyles hackNoBackdropBlur isExtensionSidebarOpen={false} />
    <div style={{ width: WIDTH, background: background.canvas, color: text.primary, overflow: "hidden" }}>
      <header style={{ padding: `14px ${EDGE}px 10px`, display: "flex", flexWrap: "wrap", gap: 8, alignItems: "center" }}>
        <h1 style={{ fontSize: 20, margin: "0 12px 0 0" }}>{title}</h1>
        {board.variables.map(([label, value]) =>
          <span key={label} style={{ display: "inline-flex", border: `1px solid ${border.medium}`, borderRadius: 4, fontSize: 12 }}>
            <b style={{ padding: "4px 8px", background: background.secondary, fontWeight: 500 }}>{label}</b>
            <span style={{ padding: "4px 8px", background: background.primary }}>{value}</span>
          </span>)}
        <span style={{ marginLeft: "auto", fontSize: 12, color: text.secondary }}>{time(board.from)} to {time(board.to)} UTC</span>
      </header>
      <div style={{ position: "relative", height: bottom + EDGE - GAP }}>
        {panels.map((panel) => {
          const box = place(panel.gridPos);
          return <div key={panel.id} style={{ position: "absolute", ...box }}>
            {panel.type === "row"
              ? <div style={{ fontSize: 16, fontWeight: 500, lineHeight: `${CELL}px` }}>&#8964;&ensp;{panel.title}</div>
              : <PanelChrome title={panel.title} description={panel.description} width={box.width} height={box.height} padding={panel.type === "table" ? "none" : "md"}
                  titleItems={panel.timeFrom ? <span style={{ fontSize: 12, color: text.secondary }}>Last {panel.timeFrom}</span> : undefined}>
                  {(width, height) => <Content panel={panel} width={width} height={height} />}
                </PanelChrome>}
          </div>;
        })}
      </div>
    </div>
  </ThemeContext.Provider>;
}

// Numbers are sized by measuring them: before the font is there, they come out too wide for their boxes.
Promise.all([400, 500, 600].map((weight) => document.fonts.load(`${weight} 16px Inter`)))
  .then(() => createRoot(document.getElementById("board")).render(<Page />));
