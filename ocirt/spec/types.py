"""Static types of config.json; only type checkers import this module.

Keys that may be absent may also be null, which means the same (schemas/config.schema.json).
Integers are Python ints of the ranges in the schema; strings with a list of allowed values are str.
"""

from typing import Any, NotRequired, TypedDict


class ConsoleSize(TypedDict):
    height: int
    width: int


class User(TypedDict):
    uid: NotRequired[int | None]
    gid: NotRequired[int | None]
    umask: NotRequired[int | None]
    additionalGids: NotRequired[list[int] | None]
    username: NotRequired[str | None]


class Capabilities(TypedDict):
    bounding: NotRequired[list[str] | None]
    effective: NotRequired[list[str] | None]
    inheritable: NotRequired[list[str] | None]
    permitted: NotRequired[list[str] | None]
    ambient: NotRequired[list[str] | None]


class Rlimit(TypedDict):
    type: str
    hard: int
    soft: int


class Scheduler(TypedDict):
    policy: str
    nice: NotRequired[int | None]
    priority: NotRequired[int | None]
    flags: NotRequired[list[str] | None]
    runtime: NotRequired[int | None]
    deadline: NotRequired[int | None]
    period: NotRequired[int | None]


# class is a keyword, so the members are given as a dict
IOPriority = TypedDict("IOPriority", {"class": str, "priority": NotRequired[int | None]})


class ExecCPUAffinity(TypedDict):
    initial: NotRequired[str | None]
    final: NotRequired[str | None]


class Process(TypedDict):
    terminal: NotRequired[bool | None]
    consoleSize: NotRequired[ConsoleSize | None]
    user: NotRequired[User | None]
    args: NotRequired[list[str] | None]
    commandLine: NotRequired[str | None]
    env: NotRequired[list[str] | None]
    cwd: str
    capabilities: NotRequired[Capabilities | None]
    rlimits: NotRequired[list[Rlimit] | None]
    noNewPrivileges: NotRequired[bool | None]
    apparmorProfile: NotRequired[str | None]
    oomScoreAdj: NotRequired[int | None]
    selinuxLabel: NotRequired[str | None]
    scheduler: NotRequired[Scheduler | None]
    ioPriority: NotRequired[IOPriority | None]
    execCPUAffinity: NotRequired[ExecCPUAffinity | None]


class Root(TypedDict):
    path: str
    readonly: NotRequired[bool | None]


class IDMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class Mount(TypedDict):
    destination: str
    type: NotRequired[str | None]
    source: NotRequired[str | None]
    options: NotRequired[list[str] | None]
    uidMappings: NotRequired[list[IDMapping] | None]
    gidMappings: NotRequired[list[IDMapping] | None]


class Hook(TypedDict):
    path: str
    args: NotRequired[list[str] | None]
    env: NotRequired[list[str] | None]
    timeout: NotRequired[int | None]


class Hooks(TypedDict):
    prestart: NotRequired[list[Hook] | None]
    createRuntime: NotRequired[list[Hook] | None]
    createContainer: NotRequired[list[Hook] | None]
    startContainer: NotRequired[list[Hook] | None]
    poststart: NotRequired[list[Hook] | None]
    poststop: NotRequired[list[Hook] | None]


class DeviceRule(TypedDict):
    allow: bool
    type: NotRequired[str | None]
    major: NotRequired[int | None]
    minor: NotRequired[int | None]
    access: NotRequired[str | None]


class Memory(TypedDict):
    limit: NotRequired[int | None]
    reservation: NotRequired[int | None]
    swap: NotRequired[int | None]
    kernel: NotRequired[int | None]
    kernelTCP: NotRequired[int | None]
    swappiness: NotRequired[int | None]
    disableOOMKiller: NotRequired[bool | None]
    useHierarchy: NotRequired[bool | None]
    checkBeforeUpdate: NotRequired[bool | None]


class CPU(TypedDict):
    shares: NotRequired[int | None]
    quota: NotRequired[int | None]
    burst: NotRequired[int | None]
    period: NotRequired[int | None]
    realtimeRuntime: NotRequired[int | None]
    realtimePeriod: NotRequired[int | None]
    cpus: NotRequired[str | None]
    mems: NotRequired[str | None]
    idle: NotRequired[int | None]


class Pids(TypedDict):
    limit: NotRequired[int | None]


class WeightDevice(TypedDict):
    major: int
    minor: int
    weight: NotRequired[int | None]
    leafWeight: NotRequired[int | None]


class ThrottleDevice(TypedDict):
    major: int
    minor: int
    rate: int


class BlockIO(TypedDict):
    weight: NotRequired[int | None]
    leafWeight: NotRequired[int | None]
    weightDevice: NotRequired[list[WeightDevice] | None]
    throttleReadBpsDevice: NotRequired[list[ThrottleDevice] | None]
    throttleWriteBpsDevice: NotRequired[list[ThrottleDevice] | None]
    throttleReadIOPSDevice: NotRequired[list[ThrottleDevice] | None]
    throttleWriteIOPSDevice: NotRequired[list[ThrottleDevice] | None]


class HugepageLimit(TypedDict):
    pageSize: str
    limit: int


class InterfacePriority(TypedDict):
    name: str
    priority: int


class Network(TypedDict):
    classID: NotRequired[int | None]
    priorities: NotRequired[list[InterfacePriority] | None]


class Rdma(TypedDict):
    hcaHandles: NotRequired[int | None]
    hcaObjects: NotRequired[int | None]


class Resources(TypedDict):
    devices: NotRequired[list[DeviceRule] | None]
    memory: NotRequired[Memory | None]
    cpu: NotRequired[CPU | None]
    pids: NotRequired[Pids | None]
    blockIO: NotRequired[BlockIO | None]
    hugepageLimits: NotRequired[list[HugepageLimit] | None]
    network: NotRequired[Network | None]
    rdma: NotRequired[dict[str, Rdma] | None]
    unified: NotRequired[dict[str, str] | None]


class Namespace(TypedDict):
    type: str
    path: NotRequired[str | None]


class Device(TypedDict):
    path: str
    type: str
    major: NotRequired[int | None]
    minor: NotRequired[int | None]
    fileMode: NotRequired[int | None]
    uid: NotRequired[int | None]
    gid: NotRequired[int | None]


class NetDevice(TypedDict):
    name: NotRequired[str | None]


class SeccompArgument(TypedDict):
    index: int
    value: int
    valueTwo: NotRequired[int | None]
    op: str


class SeccompSyscall(TypedDict):
    names: list[str]
    action: str
    errnoRet: NotRequired[int | None]
    args: NotRequired[list[SeccompArgument] | None]


class Seccomp(TypedDict):
    defaultAction: str
    defaultErrnoRet: NotRequired[int | None]
    architectures: NotRequired[list[str] | None]
    flags: NotRequired[list[str] | None]
    listenerPath: NotRequired[str | None]
    listenerMetadata: NotRequired[str | None]
    syscalls: NotRequired[list[SeccompSyscall] | None]


class IntelRdt(TypedDict):
    closID: NotRequired[str | None]
    schemata: NotRequired[list[str] | None]
    l3CacheSchema: NotRequired[str | None]
    memBwSchema: NotRequired[str | None]
    enableMonitoring: NotRequired[bool | None]
    enableCMT: NotRequired[bool | None]
    enableMBM: NotRequired[bool | None]


class MemoryPolicy(TypedDict):
    mode: str
    nodes: NotRequired[str | None]
    flags: NotRequired[list[str] | None]


class Personality(TypedDict):
    domain: str
    flags: NotRequired[list[str] | None]


class TimeOffset(TypedDict):
    secs: NotRequired[int | None]
    nanosecs: NotRequired[int | None]


class Linux(TypedDict):
    uidMappings: NotRequired[list[IDMapping] | None]
    gidMappings: NotRequired[list[IDMapping] | None]
    sysctl: NotRequired[dict[str, str] | None]
    resources: NotRequired[Resources | None]
    cgroupsPath: NotRequired[str | None]
    namespaces: NotRequired[list[Namespace] | None]
    devices: NotRequired[list[Device] | None]
    netDevices: NotRequired[dict[str, NetDevice] | None]
    seccomp: NotRequired[Seccomp | None]
    rootfsPropagation: NotRequired[str | None]
    maskedPaths: NotRequired[list[str] | None]
    readonlyPaths: NotRequired[list[str] | None]
    mountLabel: NotRequired[str | None]
    intelRdt: NotRequired[IntelRdt | None]
    memoryPolicy: NotRequired[MemoryPolicy | None]
    personality: NotRequired[Personality | None]
    timeOffsets: NotRequired[dict[str, TimeOffset] | None]


class Spec(TypedDict):
    ociVersion: str
    process: NotRequired[Process | None]
    root: NotRequired[Root | None]
    hostname: NotRequired[str | None]
    domainname: NotRequired[str | None]
    mounts: NotRequired[list[Mount] | None]
    hooks: NotRequired[Hooks | None]
    annotations: NotRequired[dict[str, str] | None]
    linux: NotRequired[Linux | None]
    solaris: NotRequired[dict[str, Any] | None]
    windows: NotRequired[dict[str, Any] | None]
    vm: NotRequired[dict[str, Any] | None]
    zos: NotRequired[dict[str, Any] | None]
    freebsd: NotRequired[dict[str, Any] | None]
