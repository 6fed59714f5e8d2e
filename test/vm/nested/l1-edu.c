// L1's VFIO user: drives QEMU's edu device (docs/specs/edu.rst of QEMU) by I/O virtual address through the kernel's own VFIO,
// on a virtio-iommu. A static program of C, because it runs in an emulator inside an emulator.
// Usage: l1-edu NAME GROUP. Prints a line `@@ {"name":...,"ok":...}` for each check, and `@@ {"mark":...}` where the world outside
// is to look; it goes on after a line on standard input. Exit status 0 when every check held.
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { IDENTITY = 0x00, LIVENESS = 0x04, RAISE = 0x60, ACKNOWLEDGE = 0x64, SOURCE = 0x80, TARGET = 0x88, COUNT = 0x90, COMMAND = 0x98 };
enum { TO_BUFFER = 1, TO_MEMORY = 3, BUFFER = 0x40000, BUFFER_BYTES = 4096 };
enum { COMMAND_REGISTER = 4, MEMORY_SPACE = 2, BUS_MASTER = 4 };
enum { PAGE = 4096 };

// Below the MSI window; nothing else is mapped. Not neighbours, so that each one is a host entry of its own.
#define FROM 0x10000000u
#define TO 0x20000000u
#define NOWHERE 0x30000000u
// Neighbours here, and far from each other in L1's memory: one MAP for each page, and one host entry for all of them.
#define SCATTERED 0x40000000u
enum { PAGES = 64, MIDDLE = 31 };

static int device, failed;
static off_t bar, config;

static void result(const char *name, int ok, const char *detail) {
  printf("\n@@ {\"name\":\"%s\",\"ok\":%s,\"detail\":\"%s\"}\n", name, ok ? "true" : "false", ok ? "" : detail);
  fflush(stdout);
  failed += !ok;
}

static void mark(const char *name) {
  char line[16];
  printf("\n@@ {\"mark\":\"%s\"}\n", name);
  fflush(stdout);
  if (!fgets(line, sizeof line, stdin)) _exit(3);
}

static void must(int ok, const char *what) {
  char detail[64];
  if (ok) return;
  snprintf(detail, sizeof detail, "errno %d", errno);
  result(what, 0, detail);
  _exit(2);
}

static uint32_t load(uint32_t at) {
  uint32_t value = 0;
  must(pread(device, &value, 4, bar + at) == 4, "a register can be read");
  return value;
}

static void store(uint32_t at, uint32_t value) {
  must(pwrite(device, &value, 4, bar + at) == 4, "a register can be written");
}

static void command_register(uint16_t value) {
  must(pwrite(device, &value, 2, config + COMMAND_REGISTER) == 2, "the Command register can be written");
}

static void transfer(uint32_t command, uint32_t source, uint32_t target, uint32_t bytes) {
  store(SOURCE, source);
  store(TARGET, target);
  store(COUNT, bytes);
  store(COMMAND, command);
  for (int i = 0; load(COMMAND) & 1; i++) {
    must(i < 3000, "a transfer ends");
    usleep(20000);
  }
}

static void map(int container, void *memory, uint64_t iova, uint64_t bytes) {
  struct vfio_iommu_type1_dma_map request = {
      .argsz = sizeof request,
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = (uintptr_t)memory,
      .iova = iova,
      .size = bytes,
  };
  must(ioctl(container, VFIO_IOMMU_MAP_DMA, &request) == 0, "memory can be mapped");
}

static void unmap(int container, uint64_t iova, uint64_t bytes) {
  struct vfio_iommu_type1_dma_unmap request = {.argsz = sizeof request, .iova = iova, .size = bytes};
  must(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &request) == 0, "memory can be unmapped");
}

static off_t region(uint32_t index) {
  struct vfio_region_info info = {.argsz = sizeof info, .index = index};
  must(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0 && info.size > 0, "a region is there");
  return (off_t)info.offset;
}

static uint8_t *scattered_page(uint8_t *scattered, int i) {
  return scattered + 2 * i * PAGE;
}

static int all(const uint8_t *bytes, int length, uint8_t value) {
  for (int i = 0; i < length; i++)
    if (bytes[i] != value) return 0;
  return 1;
}

static void interrupt(uint32_t index, const char *name) {
  struct {
    struct vfio_irq_set head;
    int32_t fd;
  } set = {{.argsz = sizeof set, .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, .index = index, .count = 1}, 0};
  struct vfio_irq_set off = {.argsz = sizeof off, .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, .index = index};
  struct pollfd wait = {.fd = eventfd(0, EFD_NONBLOCK), .events = POLLIN};
  set.fd = wait.fd;
  must(ioctl(device, VFIO_DEVICE_SET_IRQS, &set) == 0, "an interrupt can be wired");
  store(RAISE, 1);
  result(name, poll(&wait, 1, 60000) == 1, "no interrupt in 60 s");
  store(ACKNOWLEDGE, 1);
  must(ioctl(device, VFIO_DEVICE_SET_IRQS, &off) == 0, "an interrupt can be switched off");
  close(wait.fd);
}

int main(int count, char **words) {
  char path[64];
  uint8_t pattern[PAGE];
  if (count != 3) return 2;
  int container = open("/dev/vfio/vfio", O_RDWR);
  snprintf(path, sizeof path, "/dev/vfio/%s", words[2]);
  int group = open(path, O_RDWR);
  must(container >= 0 && group >= 0, "the group opens");
  must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "the group takes a container");
  must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "the container takes the IOMMU");
  device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, words[1]);
  must(device >= 0, "the device opens");
  bar = region(VFIO_PCI_BAR0_REGION_INDEX);
  config = region(VFIO_PCI_CONFIG_REGION_INDEX);
  uint8_t *memory = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  must(memory != MAP_FAILED, "there is memory");
  uint8_t *from = memory, *to = memory + 2 * PAGE;
  for (int i = 0; i < PAGE; i++) pattern[i] = from[i] = (uint8_t)(i * 7 + (i >> 8) + 1);

  map(container, from, FROM, PAGE);
  map(container, to, TO, PAGE);
  uint8_t *scattered = mmap(0, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  must(scattered != MAP_FAILED, "there is memory");
  for (int i = 0; i < 2 * PAGES; i++) memset(scattered + i * PAGE, i % 2 == 0 ? i / 2 + 1 : 0, PAGE);
  for (int i = 0; i < PAGES; i++) map(container, scattered_page(scattered, i), SCATTERED + i * PAGE, PAGE);
  mark("mapped");
  command_register(MEMORY_SPACE | BUS_MASTER);
  store(LIVENESS, 0x12345678);
  result("the registers are those of the physical device", load(IDENTITY) == 0x010000ed && load(LIVENESS) == ~0x12345678u, "other values");
  mark("live");

  transfer(TO_BUFFER, FROM, BUFFER, PAGE);
  transfer(TO_MEMORY, BUFFER, TO, PAGE);
  result("DMA by IOVA reads and writes L1's memory", memcmp(to, pattern, PAGE) == 0, "other bytes");
  result("and nothing beside", all(memory + PAGE, PAGE, 0) && all(memory + 3 * PAGE, PAGE, 0), "neighbours have changed");

  memset(to, 0, PAGE);
  transfer(TO_MEMORY, BUFFER, NOWHERE, 64);
  result("a write to an address that is not mapped reaches nothing", all(to, PAGE, 0) && memcmp(from, pattern, PAGE) == 0, "memory has changed");
  mark("blocked");

  unmap(container, TO, PAGE);
  transfer(TO_MEMORY, BUFFER, TO, 64);
  result("a write after UNMAP reaches nothing", all(to, PAGE, 0), "memory has changed");
  map(container, to, TO, PAGE);
  transfer(TO_MEMORY, BUFFER, TO, 64);
  result("and after another MAP it does", memcmp(to, pattern, 64) == 0 && all(to + 64, PAGE - 64, 0), "other bytes");

  int right = 1;
  for (int i = 0; i < PAGES; i += PAGES - 1) {
    transfer(TO_BUFFER, SCATTERED + i * PAGE, BUFFER, 64);
    transfer(TO_MEMORY, BUFFER, TO, 64);
    right &= all(to, 64, (uint8_t)(i + 1));
  }
  result("scattered pages are reached by their own addresses", right, "other bytes");
  unmap(container, SCATTERED + MIDDLE * PAGE, PAGE);
  for (int i = MIDDLE - 1; i <= MIDDLE + 1; i++) transfer(TO_MEMORY, BUFFER, SCATTERED + i * PAGE, 64);
  int neighbours = all(scattered_page(scattered, MIDDLE - 1), 64, PAGES) && all(scattered_page(scattered, MIDDLE + 1), 64, PAGES);
  result("after UNMAP of one in the middle its neighbours are reached", neighbours, "other bytes");
  result("and it is not", all(scattered_page(scattered, MIDDLE), PAGE, MIDDLE + 1), "memory has changed");

  interrupt(VFIO_PCI_MSI_IRQ_INDEX, "an MSI of the physical device arrives in L1");

  memset(to, 0, PAGE);
  command_register(MEMORY_SPACE);
  transfer(TO_MEMORY, BUFFER, TO, 64);
  result("without bus master nothing is written", all(to, PAGE, 0), "memory has changed");
  mark("quiet");
  return failed == 0 ? 0 : 1;
}
