import type { IncomingMessage, ServerResponse } from 'node:http';
import { PrometheusExporter } from '@opentelemetry/exporter-prometheus';
import { MeterProvider } from '@opentelemetry/sdk-metrics';

/** A number of the process, read when somebody asks for it. */
export type Gauge = { name: string; description: string; read: () => number };

export type Metrics = {
  /** Answers in the Prometheus text format. */
  answer: (request: IncomingMessage, response: ServerResponse) => void;
  stop: () => Promise<void>;
};

/** OpenTelemetry's Prometheus exporter over the given gauges. No units are set: they would change the names. */
export function openMetrics(gauges: readonly Gauge[]): Metrics {
  const exporter = new PrometheusExporter({
    preventServerStart: true,
    withoutScopeInfo: true,
    withoutTargetInfo: true,
  });
  const provider = new MeterProvider({ readers: [exporter] });
  const meter = provider.getMeter('mozaiks-runtime');
  for (const { name, description, read } of gauges)
    meter.createObservableGauge(name, { description }).addCallback((result) => result.observe(read()));
  return {
    answer: (request, response) => exporter.getMetricsRequestHandler(request, response),
    stop: () => provider.shutdown(),
  };
}
