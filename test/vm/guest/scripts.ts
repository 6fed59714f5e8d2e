// What runs inside the guest: parts of busybox shell scripts that print facts (facts.ts). Not here: what they must say.

/** Functions for all scripts: `fact NAME VALUE`, and `waited SECONDS COMMAND...`, which repeats a command until it holds. */
const PRELUDE = `
fact() {
  printf '\\n@@ {"fact":"%s","value":"%s"}\\n' "$1" "$(printf '%s' "$2" | tr -d '"\\\\\\\\\\r' | tr '\\n\\t' '| ' | sed 's/ *$//')"
}
waited() {
  seconds=$(($1 * 5)); shift
  while ! "$@" >/dev/null 2>&1; do
    [ $seconds -gt 0 ] || return 1
    seconds=$((seconds - 1)); sleep 0.2
  done
}
fact kernel "$(uname -r)"
fact uptime "$(cut -d' ' -f1 /proc/uptime)"
`;

/** Groups, reserved regions, virtio devices, interrupts. */
export const SURVEY = `
for group in /sys/kernel/iommu_groups/*; do
  [ -e $group/type ] || continue
  fact group "\${group##*/} $(cat $group/type) $(ls $group/devices | tr '\\n' ' ')"
  while read -r line; do fact reserved "\${group##*/} $line"; done < $group/reserved_regions
done
for device in /sys/bus/virtio/devices/*; do
  [ -e $device/features ] || continue
  path=$(readlink -f $device); path=\${path%/*}
  fact virtio "\${path##*/} $(cat $device/device) $(cat $device/features) $(basename "$(readlink $device/driver)")"
done
grep -E 'virtio' /proc/interrupts | while read -r line; do fact interrupt "$line"; done
`;

/** Kernel messages; at the end of a script. */
export const MESSAGES = `
dmesg | grep -iE 'iommu|viot|virtio|vfio|BUG:|WARNING:|Oops|Call Trace|lockup|stall' |
  while read -r line; do fact message "$line"; done
`;

/** Reads bytes of the generator: `random` in hex, `random-status` 0, or that of `timeout` when it did not come to its end. */
export function readRandom(bytes: number, seconds: number): string {
  return `
waited 30 grep -q virtio_rng /sys/class/misc/hw_random/rng_current
fact rng "$(cat /sys/class/misc/hw_random/rng_current)"
timeout ${seconds} head -c ${bytes} /dev/hwrng > /tmp/random
fact random-status $?
od -An -v -tx1 /tmp/random | while read -r line; do fact random "$(printf '%s' "$line" | tr -d ' ')"; done
`;
}

/** Seconds (`throughput`) that `reads` reads of 64 bytes take: one request of the generator each. */
export function timeRandom(reads: number): string {
  return `
begin=$(cut -d' ' -f1 /proc/uptime)
dd if=/dev/hwrng of=/dev/null bs=64 count=${reads} 2>/dev/null
fact throughput "$begin $(cut -d' ' -f1 /proc/uptime)"
`;
}

/** Tells (`booted`) how often the machine has booted, 1 or 2, and goes another way the second time; the clock keeps the count. */
export function byTimesBooted(first: string, second: string): string {
  return `
if [ "$(date -u +%Y)" = 2020 ]; then
  fact booted 1
  date -u -s 2030-06-01 >/dev/null && hwclock -u -w -f /dev/rtc0 || exit 1
  ${first}
else
  fact booted 2
  ${second}
fi
`;
}

/** Puts parts together. */
export function script(...parts: readonly string[]): string {
  return [PRELUDE, ...parts, 'exit 0\n'].join('\n');
}
