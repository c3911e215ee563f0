"""The incidents: what happens, when, and every alert that must speak of it. No other may.

An alert is written as its severity, its name and what it is about. Inhibition is Alertmanager's business: causes stand
here beside their symptoms.
"""

# ruff: noqa: E501 (a table of sentences: long and flat on purpose)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from exporter.simulator import LLAMA32_3B, SMOLLM2, TINYLLAMA, Member
from tests.incidents import stories as s
from tests.incidents.verdict import Key, Told
from tests.incidents.world import MINUTE, NOBODY, Shape, Story, member


@dataclass(frozen=True, slots=True)
class Incident:
    """`fires`: every alert that it makes fire. `step`: seconds between two evaluations of the rules."""

    name: str
    told: str
    story: Story
    fires: frozenset[Key]
    step: int

    def fired_after(self, told: Told) -> float:
        """Seconds from the beginning of the incident."""
        return told.first - self.story.begins * MINUTE

    def silent_after(self, told: Told) -> float | None:
        """Seconds from the end of the incident; None when the alert fires as long as we look."""
        if told.last >= self.story.until * MINUTE:
            return None
        return told.last + self.step - (self.story.begins + self.story.lasts) * MINUTE


def _incident(name: str, told: str, story: Story, *fires: Key, step: int = 0) -> Incident:
    """A longer story is judged less often."""
    return Incident(name, told, story, frozenset(fires), step or (30 if story.until <= 120 else 60))


_GPU2 = member("gpu2", seed=2)


def _inside(*sources: str, gpu2: Member = _GPU2, **more: Any) -> Shape:
    """Two servers that these sources look into."""
    return Shape((member("gpu1"), gpu2), inside=frozenset(sources), **more)


_ONE_SLOT = member("gpu2", 0.03, num_parallel=1, seed=2)
_CROWDED = Shape((member("gpu1"), member("gpu2", 0.03, num_parallel=1)))
_MLLAMA = replace(LLAMA32_3B, name="mllama:latest", family="mllama", digest="", blob="", single_slot_family=True)
_UNASKED = member("gpu2", NOBODY, seed=2)
_HOST = Shape(host="gpu1")
_SELDOM_USED = Shape((member("gpu1"), member("gpu2", 0.02)))
_SLOW_DISK = Shape((member("gpu1"), member("gpu2", 0.02, (replace(TINYLLAMA, load_seconds=45.0),))))
_DAYS = {"poll": {"interval": "1m"}, "canary": {"mode": "off"}}
_HOST_FOR_HOURS = Shape(config=_DAYS, host="gpu1")

INCIDENTS = (
    _incident("a-server-dies", "gpu2 refuses connections for 10 minutes.",
        Story(s.fault("gpu2", "dead"), 75, 10, 120),
        "critical OllamaAvailabilityBudgetBurn 1h", "critical OllamaServerDown gpu2"),
    _incident("a-server-hangs-in-its-start", "gpu2 is started anew, listens, and takes no connection for 20 minutes.",
        Story(s.hangs_in_its_start("gpu2"), 75, 20, 120, _inside("sockets", "runner")),
        "critical OllamaAvailabilityBudgetBurn 1h", "critical OllamaRequestsHanging gpu2", "critical OllamaServerDown gpu2",
        "warning OllamaAcceptQueueFilling gpu2", "warning OllamaServerStuckStarting gpu2"),
    _incident("a-scheduler-hangs", "/api/ps of gpu2 hangs for 20 minutes, /api/version answers.",
        Story(s.fault("gpu2", "ps_stalled"), 30, 20, 120),
        "critical OllamaServerStalled gpu2"),
    _incident("generations-fail", "Every generation on gpu2 ends in HTTP 500 for 30 minutes.",
        Story(s.fault("gpu2", "error_rate", path="/api/generate"), 30, 30, 210),
        "critical OllamaCanaryFailing tinyllama:latest gpu2", "critical OllamaSuccessBudgetBurn 1h", "critical OllamaSuccessBudgetBurn 6h",
        "warning OllamaErrorRatioHigh gpu2", "warning OllamaSuccessBudgetBurn 1d"),
    _incident("some-generations-fail", "One in six generations on gpu2 ends in HTTP 500 for three hours.",
        Story(s.fault("gpu2", "error_rate", path="/api/generate", rate=0.16), 30, 180, 540),
        "warning OllamaErrorRatioHigh gpu2", "warning OllamaSuccessBudgetBurn 1d", "warning OllamaSuccessBudgetBurn 3d"),
    _incident("a-slot-is-lost", "The only slot of gpu2 is never given back; after 50 minutes somebody restarts Ollama.",
        Story(s.fault("gpu2", "slot_lost"), 30, 50, 120, _inside("sockets", "runner", gpu2=_ONE_SLOT), over=s.restarts("gpu2")),
        "critical OllamaGenerationStuck tinyllama:latest gpu2", "critical OllamaQueueSaturated gpu2", "critical OllamaRequestsHanging gpu2",
        "critical OllamaSlotLost gpu2", "warning OllamaQueueSaturated gpu2"),
    _incident("a-slot-is-lost-behind-closed-doors", "The only slot of gpu2 is never given back, and its runners are not looked at.",
        Story(s.fault("gpu2", "slot_lost"), 30, 50, 120, _inside("sockets", gpu2=_ONE_SLOT), over=s.restarts("gpu2")),
        "critical OllamaGenerationStuck tinyllama:latest gpu2", "critical OllamaQueueSaturated gpu2", "warning OllamaQueueSaturated gpu2",
        "warning OllamaRequestsHanging gpu2"),
    _incident("the-queue-is-full", "Every four minutes callers insist on a model of gpu2 that fails to load, more than the queue takes, while the runner of the model in use has died.",
        Story(s.queue_behind_a_model_that_does_not_load("gpu2"), 30, 20, 210, Shape((member("gpu1"), member("gpu2", NOBODY, max_queue=2)))),
        "critical OllamaQueueSaturated gpu2", "critical OllamaRequestsRejected gpu2", "critical OllamaSuccessBudgetBurn 6h",
        "warning OllamaErrorRatioHigh gpu2", "warning OllamaQueueSaturated gpu2", "warning OllamaSuccessBudgetBurn 1d"),
    _incident("answers-are-cut", "The answers of gpu2 break off, with HTTP 200 and without an end, for 15 minutes.",
        Story(s.fault("gpu2", "repeat_cut", path="/api/generate"), 30, 15, 180),
        "critical OllamaCanaryFailing tinyllama:latest gpu2", "critical OllamaSuccessBudgetBurn 1h", "critical OllamaSuccessBudgetBurn 6h",
        "warning OllamaAnswersMalformed tinyllama:latest gpu2", "warning OllamaErrorRatioHigh gpu2", "warning OllamaSuccessBudgetBurn 1d"),
    _incident("a-crowd", "For three quarters of an hour crowds of callers fill the only slot of gpu2, with a breath between two crowds.",
        Story(s.crowd("gpu2", 14), 60, 45, 240, _CROWDED),
        "critical OllamaFirstTokenOver5sBudgetBurn 6h", "critical OllamaQueueSaturated gpu2", "warning OllamaFirstTokenOver5sBudgetBurn 1d",
        "warning OllamaFirstTokenSlow gpu2", "warning OllamaQueueSaturated gpu2", "warning OllamaQueueWaitHigh gpu2"),
    _incident("a-queue-grows", "Every minute a job holds the only slot of gpu2, each time a little longer.",
        Story(s.batch("gpu2", 0.012), 60, 150, 300, Shape((member("gpu1"), member("gpu2", NOBODY, num_parallel=1)))),
        "warning OllamaQueueSaturationPredicted gpu2", "warning OllamaQueueSaturated gpu2", "critical OllamaQueueSaturated gpu2",
        "warning OllamaQueueWaitHigh gpu2", "warning OllamaFirstTokenSlow gpu2"),
    _incident("six-slow-hours", "For six hours and a half crowds of callers keep everybody on both servers waiting for more than 5 s.",
        Story(s.both(s.crowd("gpu1", 14), s.crowd("gpu2", 14)), 60, 390, 900, Shape((member("gpu1", NOBODY, num_parallel=1), member("gpu2", NOBODY, num_parallel=1)))),
        "critical OllamaFirstTokenOver2sBudgetBurn 1h", "critical OllamaFirstTokenOver2sBudgetBurn 6h", "critical OllamaFirstTokenOver5sBudgetBurn 1h",
        "critical OllamaFirstTokenOver5sBudgetBurn 6h", "critical OllamaQueueSaturated gpu1", "critical OllamaQueueSaturated gpu2",
        "warning OllamaFirstTokenOver2sBudgetBurn 1d", "warning OllamaFirstTokenOver2sBudgetBurn 3d", "warning OllamaFirstTokenOver5sBudgetBurn 1d",
        "warning OllamaFirstTokenOver5sBudgetBurn 3d", "warning OllamaFirstTokenSlow gpu1", "warning OllamaFirstTokenSlow gpu2",
        "warning OllamaQueueSaturated gpu1", "warning OllamaQueueSaturated gpu2", "warning OllamaQueueWaitHigh gpu1",
        "warning OllamaQueueWaitHigh gpu2", step=120),
    _incident("six-hours-of-errors", "For six hours and a half every second generation fails on both servers.",
        Story(s.both(s.fault("gpu1", "error_rate", path="/api/generate", rate=0.5), s.fault("gpu2", "error_rate", path="/api/generate", rate=0.5)), 60, 390, 900),
        "critical OllamaCanaryFailing tinyllama:latest gpu1", "critical OllamaCanaryFailing tinyllama:latest gpu2", "critical OllamaSuccessBudgetBurn 1h",
        "critical OllamaSuccessBudgetBurn 6h", "warning OllamaErrorRatioHigh gpu1", "warning OllamaErrorRatioHigh gpu2",
        "warning OllamaSuccessBudgetBurn 1d", "warning OllamaSuccessBudgetBurn 3d", step=120),
    _incident("an-outage-after-6-hours", "gpu2 is away for 6 minutes.", Story(s.fault("gpu2", "dead"), 400, 6, 480, Shape(config=_DAYS)),
        "critical OllamaAvailabilityBudgetBurn 1h", "critical OllamaAvailabilityBudgetBurn 6h", "critical OllamaServerDown gpu2"),
    _incident("an-outage-after-three-days", "gpu2 is away for 20 minutes after three days.",
        Story(s.fault("gpu2", "dead"), 4400, 20, 4900, Shape(config=_DAYS), scrape=60),
        "critical OllamaAvailabilityBudgetBurn 1h", "critical OllamaAvailabilityBudgetBurn 6h", "critical OllamaServerDown gpu2",
        "warning OllamaAvailabilityBudgetBurn 1d", "warning OllamaAvailabilityBudgetBurn 3d", step=240),
    _incident("models-push-each-other-out", "Users ask gpu2 in turn for two models of which one has a place.",
        Story(s.swaps("gpu2", 20, (LLAMA32_3B, TINYLLAMA)), 30, 30, 120, Shape((member("gpu1"), member("gpu2", NOBODY, max_loaded_models=1)))),
        "warning OllamaModelThrash gpu2"),
    _incident("two-clients-two-contexts", "Two clients of gpu2 ask for one model with different contexts, in turn.",
        Story(s.again_and_again(0.5, s.asks("gpu2", options={"num_ctx": 1024})), 30, 15, 120),
        "warning OllamaModelReconfigured tinyllama:latest gpu2"),
    _incident("the-gpu-is-lost", "gpu2 comes back from a restart without its GPU; after an hour that is mended by another.",
        Story(s.without_its_gpu("gpu2"), 60, 60, 180, over=s.restarts("gpu2")),
        "warning OllamaModelOffGPU tinyllama:latest gpu2"),
    _incident("decoding-slows-down", "After two days, gpu1 decodes at a third of its speed for two hours.",
        Story(s.fault("gpu1", "slow", factor=3.0), 2940, 120, 3120, Shape((member("gpu1"),), {"poll": {"interval": "1m"}, "canary": {"every": "2m"}}), scrape=60),
        "warning OllamaDecodeSlow tinyllama:latest gpu1", step=240),
    _incident("the-canary-meets-a-dead-runner", "Runners on gpu2 die, and stay listed, until once the canary is the first to ask; somebody restarts the exporter.",
        Story(s.again_and_again(3, s.fault("gpu2", "runner_killed")), 30, 40, 120, _SELDOM_USED, over=s.exporter_restarts),
        "warning OllamaCanaryCausedLoad tinyllama:latest gpu2"),
    _incident("a-model-loads-slowly", "Runners on gpu2 die, and stay listed; to load the model takes 45 s.",
        Story(s.again_and_again(3, s.fault("gpu2", "runner_killed")), 30, 40, 180, _SLOW_DISK, over=s.exporter_restarts),
        "warning OllamaCanaryCausedLoad tinyllama:latest gpu2", "warning OllamaModelLoadSlow tinyllama:latest gpu2"),
    _incident("a-tag-is-replaced-in-use", "A tag of gpu2 gets another template while users keep the old one loaded; after 90 minutes the tag is put back.",
        Story(s.installed("gpu2", replace(TINYLLAMA, digest="c0ffee" * 10 + "abcd")), 40, 90, 180, over=s.installed("gpu2", TINYLLAMA)),
        "warning OllamaCanaryNotRunning tinyllama:latest gpu2", "warning OllamaModelDigestSkew tinyllama:latest"),
    _incident("memory-is-short", "Another program takes all but 3 GiB of the memory of gpu1 for half an hour.",
        Story(s.machine(memory_available=3 * s.GIB), 30, 30, 120, _HOST, over=s.machine_is_well),
        "warning OllamaHostMemoryLow gpu1"),
    _incident("memory-leaks", "A program on gpu1 leaks 8 GiB an hour until it is stopped.",
        Story(s.leaks("memory_available", -8.0), 60, 280, 420, _HOST_FOR_HOURS, over=s.machine_is_well),
        "warning OllamaHostMemoryExhaustionPredicted gpu1", "warning OllamaHostMemoryLow gpu1", step=60),
    _incident("a-machine-swaps", "gpu1 moves 3 GiB to swap within an hour.",
        Story(s.leaks("swap_used", 3.0), 60, 60, 240, _HOST, over=s.machine_is_well),
        "warning OllamaHostSwapping gpu1"),
    _incident("a-disk-is-full", "Somebody puts 550 GiB onto the disk of the model store of gpu1.",
        Story(s.machine(disk_free=50 * s.GIB), 30, 60, 150, _HOST, over=s.machine_is_well),
        "warning OllamaModelStoreLow gpu1"),
    _incident("a-disk-fills", "Models fill the disk of gpu1 by 40 GiB an hour.",
        Story(s.leaks("disk_free", -40.0), 60, 660, 780, _HOST_FOR_HOURS, over=s.machine_is_well),
        "warning OllamaModelStoreExhaustionPredicted gpu1", step=120),
    _incident("ollama-restarts-again-and-again", "`ollama serve` on gpu1 restarts every 4 minutes for 20 minutes.",
        Story(s.again_and_again(4, s.restarts("gpu1", 5.0)), 60, 20, 180, _HOST),
        "warning OllamaServeRestarting gpu1"),
    _incident("one-server-is-not-upgraded", "gpu1 is upgraded, gpu2 is forgotten for 26 hours.",
        Story(s.upgraded("gpu1", "0.34.0"), 60, 1560, 1680, Shape(config=_DAYS), over=s.upgraded("gpu2", "0.34.0"), scrape=60),
        "info OllamaVersionSkew", step=240),
    _incident("a-tag-differs", "A model is pulled anew on gpu2 only, and two hours later on gpu1.",
        Story(s.installed("gpu2", replace(LLAMA32_3B, digest="ab" * 32)), 60, 120, 240, over=s.installed("gpu1", replace(LLAMA32_3B, digest="ab" * 32))),
        "warning OllamaModelDigestSkew llama3.2:3b"),
    _incident("a-model-is-removed", "After a day a model is removed from gpu2, while gpu1 keeps it; three hours later somebody pulls it again.",
        Story(s.removed("gpu2", LLAMA32_3B.name), 1500, 180, 1740, Shape(config=_DAYS), over=s.installed("gpu2", LLAMA32_3B), scrape=60),
        "info OllamaModelMissing llama3.2:3b gpu2", step=240),
    _incident("one-server-does-all-the-work", "gpu1 is busy for three hours; gpu2 holds the same model pinned and is not asked.",
        Story(s.asks("gpu2", keep_alive=-1), 60, 180, 420, Shape((member("gpu1", 0.2), member("gpu2", NOBODY))), over=s.restarts("gpu2")),
        "info OllamaUnbalanced tinyllama:latest"),
    _incident("a-clock-is-wrong", "The clock of gpu2 is a minute fast for 40 minutes.",
        Story(s.fault("gpu2", "clock_skew", offset=60.0), 30, 40, 150),
        "warning OllamaClockSkew gpu2"),
    _incident("the-exporter-stops", "For 15 minutes nothing listens where the exporter was.",
        Story(s.exporter_stops, 75, 15, 180, over=s.exporter_starts),
        "critical OllamaAvailabilityBudgetBurn 1h", "warning OllamaExporterDown"),
    _incident("the-exporter-is-forgotten", "The exporter is taken out of what Prometheus scrapes for 20 minutes.",
        Story(s.target_vanishes, 75, 20, 180, over=s.target_returns),
        "critical OllamaExporterAbsent"),
    _incident("the-exporter-restarts-again-and-again", "The exporter restarts every 4 minutes for 20 minutes.",
        Story(s.again_and_again(4, s.exporter_restarts), 75, 20, 210),
        "warning OllamaExporterRestarting"),
    _incident("a-certificate-is-gone", "The certificate file of a third server is gone when the exporter starts; after 20 minutes the server is taken out of the configuration.",
        Story(s.certificate_vanishes, 75, 20, 180, over=s.first_configuration),
        "warning OllamaMetricsMissing", "warning OllamaSourceFailing gpu3 api", "warning OllamaSourceFailing gpu3 canary",
        "warning OllamaSourceFailing gpu3 native"),
    _incident("another-program-has-the-port", "Another program with metrics answers in place of the exporter for 20 minutes.",
        Story(s.another_program_answers, 75, 20, 180, over=s.exporter_answers),
        "warning OllamaNotAnExporter"),
    _incident("tags-fail", "/api/tags of gpu2 answers 500 for 40 minutes.",
        Story(s.fault("gpu2", "error_rate", path="/api/tags"), 30, 40, 150),
        "warning OllamaCanaryNotRunning tinyllama:latest gpu2", "warning OllamaSourceFailing gpu2 api", "warning OllamaSourceFailing gpu2 canary"),
    _incident("the-disk-cannot-be-read", "The disk of the model store of gpu1 gives I/O errors for 20 minutes.",
        Story(s.machine(disk_fails=True), 30, 20, 120, _HOST, over=s.machine_is_well),
        "warning OllamaSourceFailing host"),
    _incident("a-request-of-the-exporter-hangs", "A request to gpu2 hangs in a way that no time limit ends, for half an hour.",
        Story(s.hangs("gpu2"), 30, 30, 150, over=s.lets_go),
        "critical OllamaGenerationStuck tinyllama:latest gpu2", "warning OllamaSourceStale gpu2 api", "warning OllamaSourceStale gpu2 canary"),
    _incident("too-many-models", "Eight more models are installed on gpu2 than get a label; after an hour they are removed.",
        Story(s.installed("gpu2", *(SMOLLM2.tagged(f"m{number}:1b") for number in range(8))), 30, 60, 150, Shape(config={"limits": {"models": 5}}), over=s.removed("gpu2", *(f"m{number}:1b" for number in range(8)))),
        "info OllamaLabelOverflow gpu2"),
    _incident("sizes-cannot-be-read", "/api/ps of gpu2 tells size 0 for 10 minutes, as Ollama does when it could not read its runner's log.",
        Story(s.fault("gpu2", "size_unread"), 30, 10, 150),
        "warning OllamaValuesRejected gpu2"),
    _incident("a-mistake-in-the-configuration", "The exporter is told to reload a file with mistakes, and 20 minutes later one without.",
        Story(s.mistake_in_configuration, 30, 20, 90, over=s.first_configuration),
        "warning OllamaConfigReloadFailed"),
    _incident("the-exporter-is-held-up", "Something holds the exporter's only thread for 3 s in every 13 s, for half an hour.",
        Story(s.blocked(3.0, 10.0), 30, 30, 120),
        "warning OllamaExporterLagging"),
    _incident("a-target-is-not-allowed", "Prometheus has a target for /probe that is not in the exporter's allow-list, for half an hour.",
        Story(s.again_and_again(1, s.probes_a_stranger), 30, 30, 120),
        "warning OllamaProbesRefused not_allowed"),
    _incident("answers-break-off", "Every minute for half an hour a runner of gpu2 breaks a streamed answer off, after a few tokens: under HTTP 200, and never the canary's.",
        Story(s.both(s.fault("gpu2", "mid_stream_error", path="/api/chat"), s.again_and_again(1, s.chats("gpu2"))), 30, 30, 120, _inside("logs")),
        "warning OllamaGenerationsFailing gpu2"),
    _incident("conversations-outgrow-their-context", "For half an hour two programs talk to gpu2 in prompts longer than the context, and let the answers go on to their end.",
        Story(s.converses("gpu2"), 30, 30, 120, _inside("logs", "runner")),
        "warning OllamaContextNearlyFull tinyllama:latest gpu2", "warning OllamaPromptsTruncated gpu2"),
    _incident("runners-crash", "Both models of gpu2 are asked for and pinned; a minute later their runners die. That happens twice within 20 minutes, and then nobody asks; there is no canary.",
        Story(s.again_and_again(18, s.crashes("gpu2", TINYLLAMA, LLAMA32_3B)), 30, 35, 120, _inside("runner", "logs", gpu2=_UNASKED, config={"canary": {"mode": "off"}}), over=s.restarts("gpu2")),
        "critical OllamaRunnerCrashed gpu2", "warning OllamaGhostModel llama3.2:3b gpu2", "warning OllamaGhostModel tinyllama:latest gpu2",
        "warning OllamaRunnerCrashed gpu2"),
    _incident("a-model-does-not-load", "Every two minutes for 20 minutes somebody asks gpu2 for a model that fails to load.",
        Story(s.both(s.fault("gpu2", "load_failed", model=LLAMA32_3B.name), s.again_and_again(2, s.asks("gpu2", LLAMA32_3B))), 30, 20, 120, _inside("logs")),
        "critical OllamaModelLoadFailing gpu2", "warning OllamaErrorRatioHigh gpu2"),
    _incident("a-gpu-runs-out-of-memory", "Twice within 10 minutes a prompt at gpu2 needs more of the GPU's memory than there is.",
        Story(s.again_and_again(8, s.runs_out_of_memory("gpu2")), 30, 10, 120, _inside("logs")),
        "warning OllamaRuntimeOutOfMemory gpu2"),
    _incident("a-container-outgrows-its-memory", "The container of gpu2 is near its memory limit for 20 minutes; then the kernel kills it three times, and it is started anew. (The Docker Engine's answers are played.)",
        Story(s.outgrows_its_container("gpu2"), 30, 40, 150, _inside("docker")),
        "warning OllamaContainerMemoryHigh gpu2", "warning OllamaContainerOutOfMemory gpu2", "warning OllamaContainerRestarting gpu2"),
    _incident("a-container-starves", "The CPU quota of gpu2's container holds it most of the time for half an hour, and its health check fails. (The Docker Engine's answers are played.)",
        Story(s.starves("gpu2"), 30, 30, 120, _inside("docker"), over=s.is_healthy("gpu2")),
        "warning OllamaContainerThrottled gpu2", "warning OllamaContainerUnhealthy gpu2"),
    _incident("a-gpu-falls-off-the-bus", "One of two GPUs falls off the bus; after half an hour the machine's driver is reset. (The driver's answers are played.)",
        Story(s.falls_off_the_bus(1), 30, 30, 150, _inside("gpu", host="gpu1", cards=2), over=s.driver_is_reset),
        "critical OllamaGpuLost gpu1", "warning OllamaGpuFailing 1 gpu1", "warning OllamaSourceFailing gpu"),
    _incident("a-gpu-is-full-and-another-is-hot", "For 45 minutes one GPU has 91 degrees, and of another 99 % of the memory are in use. (The driver's answers are played.)",
        Story(s.both(s.card(0, celsius=91), s.card(1, memory=(24 * s.GIB, round(23.8 * s.GIB)))), 30, 45, 120, _inside("gpu", host="gpu1", cards=2), over=s.both(s.card(0, celsius=61), s.card(1, memory=(24 * s.GIB, 20 * s.GIB)))),
        "warning OllamaGpuHot 0 gpu1", "warning OllamaGpuMemoryFull 1 gpu1"),
    _incident("a-server-is-set-up-badly", "gpu2 is started anew with variables that do nothing or harm; its users ask for a model that takes one request at a time; a model that the policy requires is removed. 80 minutes later all of it is undone.",
        Story(s.both(s.set_up_badly("gpu2", OLLAMA_QUEUE_SIZE="64", LLAMA_SERVER_SLOTS_DEBUG="1"), s.removed("gpu2", LLAMA32_3B.name), s.again_and_again(1, s.asks("gpu2", _MLLAMA))), 20, 80, 150,
            _inside("audit", gpu2=member("gpu2", models=(TINYLLAMA, LLAMA32_3B, _MLLAMA), seed=2), policy={"required_models": [LLAMA32_3B.name]}),
            over=s.both(s.set_up_badly("gpu2"), s.installed("gpu2", LLAMA32_3B))),
        "info OllamaSettingHurts parallel_forced_to_1 gpu2", "info OllamaSettingIgnored gpu2", "warning OllamaPolicyViolated required_model_missing gpu2",
        "warning OllamaSettingHurts slots_debug gpu2"),
    _incident("a-log-changes-its-form", "gpu2 writes its access lines in another form for 40 minutes.",
        Story(s.fault("gpu2", "log_reworded"), 30, 40, 150, _inside("logs")),
        "warning OllamaLogFormatChanged gpu2"),
    _incident("a-log-is-truncated", "The log of gpu2 is copied and truncated every ten minutes for half an hour, while it is written to.",
        Story(s.again_and_again(10, s.log_is_truncated("gpu2")), 30, 35, 150, _inside("logs")),
        "warning OllamaLogIncomplete gpu2"),
    _incident("a-log-falls-silent", "The output of gpu2 goes elsewhere for 50 minutes.",
        Story(s.logs_elsewhere("gpu2"), 30, 50, 150, _inside("logs"), over=s.logs_elsewhere("gpu2", False)),
        "warning OllamaLogSilent gpu2"),
)  # fmt: skip
