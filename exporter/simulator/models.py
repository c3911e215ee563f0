"""The models that a simulated server can have installed. Data only; sizes and shapes are the real ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class SimModel:
    name: str  # with its tag
    family: str
    parameter_size: str
    parameter_count: int
    quantization: str
    file_bytes: int
    context_length: int  # the training context
    embedding_length: int
    block_count: int
    capabilities: tuple[str, ...] = ("completion",)
    digest: str = ""  # of the manifest; derived from the name when empty
    blob: str = ""  # of the GGUF layer; tags that share it share one runner
    kv_bytes_per_token: int = 22 * 1024
    load_seconds: float = 1.5
    prefill_tokens_per_second: float = 4_000.0
    decode_tokens_per_second: float = 120.0
    # Each further busy slot slows every slot by this share of the pace of one alone.
    crowding: float = 0.02
    mean_answer_tokens: int = 90
    template_tokens: int = 8
    template: str = "{{ .Prompt }}"
    parameters: tuple[tuple[str, str], ...] = ()  # PARAMETER lines of the modelfile
    modified_at: str = "2026-11-20T09:12:31.521955674Z"
    remote_model: str = ""
    remote_host: str = ""
    single_slot_family: bool = False  # mllama, qwen3vl and others get one slot whatever NUM_PARALLEL says

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", _hex(f"manifest {self.name} {self.file_bytes}"))
        if not self.blob:
            object.__setattr__(self, "blob", _hex(f"blob {self.name} {self.file_bytes}"))

    @property
    def is_remote(self) -> bool:
        return bool(self.remote_host)

    @property
    def can_complete(self) -> bool:
        return "completion" in self.capabilities

    @property
    def can_embed(self) -> bool:
        return "embedding" in self.capabilities

    @property
    def can_think(self) -> bool:
        return "thinking" in self.capabilities

    @property
    def forces_one_slot(self) -> bool:
        return self.single_slot_family or not self.can_complete

    def tagged(self, name: str) -> SimModel:
        """The same blob under another name: a second tag, its own manifest."""
        return replace(self, name=name, digest=_hex(f"manifest {name} {self.file_bytes}"))


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


TINYLLAMA = SimModel(
    name="tinyllama:latest",
    family="llama",
    parameter_size="1.1B",
    parameter_count=1_100_048_384,
    quantization="Q4_0",
    file_bytes=637_700_138,
    context_length=2048,
    embedding_length=2048,
    block_count=22,
    digest="2644915ede352ea7bdfaff0bfac0be74c719d5d5202acb63a6fb095b52f394a4",
    kv_bytes_per_token=22 * 1024,
    load_seconds=1.4,
    prefill_tokens_per_second=6_000.0,
    decode_tokens_per_second=140.0,
)
LLAMA32_3B = SimModel(
    name="llama3.2:3b",
    family="llama",
    parameter_size="3.2B",
    parameter_count=3_212_749_888,
    quantization="Q4_K_M",
    file_bytes=2_019_393_189,
    context_length=131_072,
    embedding_length=3072,
    block_count=28,
    capabilities=("completion", "tools"),
    digest="a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72",
    kv_bytes_per_token=112 * 1024,
    load_seconds=3.6,
    prefill_tokens_per_second=2_400.0,
    decode_tokens_per_second=70.0,
    mean_answer_tokens=120,
)
NOMIC_EMBED = SimModel(
    name="nomic-embed-text:latest",
    family="nomic-bert",
    parameter_size="137M",
    parameter_count=136_727_040,
    quantization="F16",
    file_bytes=274_302_450,
    context_length=2048,
    embedding_length=768,
    block_count=12,
    capabilities=("embedding",),
    digest="0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f",
    kv_bytes_per_token=0,
    load_seconds=0.8,
    prefill_tokens_per_second=9_000.0,
)
QWEN3_4B = SimModel(
    name="qwen3:4b",
    family="qwen3",
    parameter_size="4.0B",
    parameter_count=4_022_468_096,
    quantization="Q4_K_M",
    file_bytes=2_497_293_931,
    context_length=262_144,
    embedding_length=2560,
    block_count=36,
    capabilities=("completion", "tools", "thinking"),
    kv_bytes_per_token=144 * 1024,
    load_seconds=4.2,
    prefill_tokens_per_second=2_000.0,
    decode_tokens_per_second=60.0,
    mean_answer_tokens=200,
)
# The two models of the recorded answers, as slow as two CPU cores made them.
SMOLLM2 = SimModel(
    name="smollm2:latest",
    family="llama",
    parameter_size="134.52M",
    parameter_count=134_515_008,
    quantization="Q4_1",
    file_bytes=98_362_745,
    context_length=8192,
    embedding_length=576,
    block_count=30,
    digest="fd5f44c0b5aff6453726119fc560d73a8a995a55b4a49804bc24b1969ecf1794",
    blob="941f309b54caaad6747569ba43712bcde44a2be3bae16c3282ff499c37c54af5",
    kv_bytes_per_token=22_500,
    load_seconds=1.8,
    prefill_tokens_per_second=150.0,
    decode_tokens_per_second=45.0,
    crowding=1.0,
    template=(
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    ),
    parameters=(("stop", "<|im_start|>"), ("stop", "<|im_end|>")),
    modified_at="2026-11-23T17:38:05.971829549Z",
)
GEMMA3_270M = SimModel(
    name="gemma3-270m:latest",
    family="gemma3",
    parameter_size="268.10M",
    parameter_count=268_098_176,
    quantization="Q4_K_M",
    file_bytes=253_113_180,
    context_length=32_768,
    embedding_length=640,
    block_count=18,
    digest="14f8ac0fb3c4d0781f89e8e94fb0f50f6074e4433c57f2974444117109948bb3",
    blob="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    kv_bytes_per_token=8_000,
    load_seconds=2.7,
    prefill_tokens_per_second=170.0,
    decode_tokens_per_second=25.0,
    crowding=1.0,
    template_tokens=0,
    modified_at="2026-11-23T17:38:08.521955674Z",
)
GPT_OSS_CLOUD = SimModel(
    name="gpt-oss:20b-cloud",
    family="gptoss",
    parameter_size="20.9B",
    parameter_count=20_914_757_184,
    quantization="MXFP4",
    file_bytes=381,
    context_length=131_072,
    embedding_length=2880,
    block_count=24,
    capabilities=("completion", "tools", "thinking"),
    remote_model="gpt-oss:20b",
    remote_host="https://ollama.com:443",
)
