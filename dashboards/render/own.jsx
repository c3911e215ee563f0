// Drawings of our own for the kinds of panel that live in Grafana's server and not in its component library.
// Colours, units and texts are still Grafana's; shapes are plain on purpose.

import { getValueFormat, formattedValueToString } from "@grafana/data";

function clock(ms) {
  return new Date(ms).toISOString().slice(11, 16);
}

function ticks(from, to, room) {
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440].find((one) => (to - from) / (one * 60e3) <= Math.min(12, room / 56)) * 60e3;
  const all = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) all.push(at);
  return all;
}

function TimeAxis({ from, to, x, y, theme }) {
  return ticks(from, to, x(to) - x(from)).filter((at) => x(at) <= x(to) - 10).map((at) =>
    <text key={at} x={x(at)} y={y} textAnchor="middle" fontSize={12} fill={theme.colors.text.primary}>{clock(at)}</text>);
}

export function Gauge({ value, field, width, height, named, theme }) {
  const room = named ? height - 20 : height;
  const radius = Math.min(width / 2.2, room / 1.45), thick = radius * 0.22, cx = width / 2, cy = room * 0.5 + radius * 0.35;
  const min = field.min ?? 0, max = field.max ?? 100;
  const angle = (share) => Math.PI * (1.1 - 1.2 * Math.min(1, Math.max(0, share)));
  const arc = (from, to, r) => {
    const [a, b] = [angle(from), angle(to)], at = (one) => `${cx + r * Math.cos(one)} ${cy - r * Math.sin(one)}`;
    return `M ${at(a)} A ${r} ${r} 0 ${a - b > Math.PI ? 1 : 0} 1 ${at(b)}`;
  };
  const share = Number.isFinite(value.numeric) ? (value.numeric - min) / (max - min) : 0;
  const steps = field.thresholds?.steps ?? [];
  const text = formattedValueToString(value);
  return <svg width={width} height={height}>
    <path d={arc(0, 1, radius - thick)} stroke={theme.colors.background.secondary} strokeWidth={thick} fill="none" />
    {share > 0 && <path d={arc(0, share, radius - thick)} stroke={value.color} strokeWidth={thick} fill="none" />}
    {steps.map((step, index) => {
      const from = (Math.max(step.value ?? -Infinity, min) - min) / (max - min);
      const to = (Math.min(steps[index + 1]?.value ?? Infinity, max) - min) / (max - min);
      return to > from && <path key={index} d={arc(from, to, radius - thick * 0.3)} fill="none" strokeWidth={thick * 0.2}
        stroke={theme.visualization.getColorByName(step.color)} />;
    })}
    <text x={cx} y={cy} textAnchor="middle" fill={value.color} fontWeight={500}
      fontSize={Math.min(radius * 0.42, (radius * 2.2) / Math.max(4, text.length))}>{text}</text>
    {named && <text x={cx} y={height - 5} textAnchor="middle" fontSize={13} fill={theme.colors.text.primary}>{value.title}</text>}
  </svg>;
}

export function StateTimeline({ series, width, height, theme, range, legend, mappings }) {
  const from = range.from.valueOf(), to = range.to.valueOf();
  const named = series.map((frame) => {
    const field = frame.fields[1], times = frame.fields[0].values, spans = [];
    times.forEach((time, index) => {
      const value = field.values[index], until = Math.min(times[index + 1] ?? to, to), last = spans.at(-1);
      if (value === null) return;
      if (last && last.value === value && last.to >= time) last.to = until;
      else spans.push({ value, from: time, to: until, shown: field.display(value) });
    });
    return { name: field.config.displayNameFromDS || field.state?.displayName || field.name, spans };
  });
  const left = Math.min(width * 0.3, 16 + 7 * Math.max(...named.map(({ name }) => name.length)));
  const bottom = 20 + (legend ? 22 : 0), row = (height - bottom) / named.length;
  const x = (time) => left + ((Math.max(time, from) - from) / (to - from)) * (width - left - 8);
  const shown = new Map();
  for (const one of (mappings ?? []).flatMap(({ type, options }) => type === "value" ? Object.values(options) : [options.result])) {
    shown.set(one.text, theme.visualization.getColorByName(one.color));
  }
  if (!shown.size) named.forEach(({ spans }) => spans.forEach(({ shown: one }) => shown.set(formattedValueToString(one), one.color)));
  const starts = [...shown.keys()].map((text) => 36 + 7 * text.length).reduce((all, one) => [...all, all.at(-1) + one], [left]);
  return <svg width={width} height={height}>
    {named.map(({ name, spans }, index) => <g key={name + index}>
      <text x={left - 8} y={(index + 0.5) * row + 4} textAnchor="end" fontSize={12} fill={theme.colors.text.primary}>{name}</text>
      {spans.map((span) => <rect key={span.from} x={x(span.from)} width={Math.max(0, x(span.to) - x(span.from))} fillOpacity={0.85}
        y={(index + 0.075) * row} height={row * 0.85} fill={span.shown.color} />)}
    </g>)}
    <TimeAxis from={from} to={to} x={x} y={height - bottom + 15} theme={theme} />
    {legend && [...shown].map(([text, colour], index) => <g key={text} transform={`translate(${starts[index]} ${height - 8})`}>
      <rect width={14} height={4} y={-6} rx={1} fill={colour} /><text x={20} fontSize={12} fill={theme.colors.text.primary}>{text}</text>
    </g>)}
  </svg>;
}

export function Heatmap({ answer, width, height, theme, range, unit }) {
  const from = range.from.valueOf(), to = range.to.valueOf(), format = getValueFormat(unit);
  const bound = (text) => (text === "+Inf" ? Infinity : Number(text));
  const buckets = answer.result.map(({ metric, values }) =>
    ({ le: bound(metric.le), at: new Map(values.map(([time, text]) => [time * 1000, Number(text)])) })).sort((a, b) => a.le - b.le);
  const left = 64, bottom = 22, row = (height - bottom) / buckets.length, step = answer.step * 1000;
  const x = (time) => left + ((Math.min(to, Math.max(time, from)) - from) / (to - from)) * (width - left - 8);
  const cells = [];
  buckets.forEach(({ at }, index) => at.forEach((total, time) => {
    const count = total - (buckets[index - 1]?.at.get(time) ?? 0);
    if (count > 1e-9) cells.push({ index, time, count });
  }));
  const most = Math.max(...cells.map(({ count }) => count), 1e-9);
  return <svg width={width} height={height}>
    {buckets.map(({ le }, index) => index % Math.ceil(14 / row) === 0 &&
      <text key={le} x={left - 8} y={height - bottom - (index + 0.5) * row + 4} textAnchor="end" fontSize={12} fill={theme.colors.text.primary}>
        {le === Infinity ? "more" : formattedValueToString(format(le))}
      </text>)}
    {cells.map(({ index, time, count }) => <rect key={`${index} ${time}`} x={x(time - step) + 0.5} y={height - bottom - (index + 1) * row + 0.5}
      width={Math.max(0, x(time) - x(time - step) - 1)} height={Math.max(1, row - 1)}
      fill={theme.visualization.getColorByName("dark-blue")} fillOpacity={0.12 + 0.88 * Math.sqrt(count / most)} />)}
    <TimeAxis from={from} to={to} x={x} y={height - 6} theme={theme} />
  </svg>;
}
