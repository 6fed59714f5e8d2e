// Runs of pages that are contiguous in I/O virtual and in physical space, handed out one at a time.
// Units: 4 KiB pages; a run is [iovaPage, iovaPage + pages), end EXCLUSIVE.

/** Bytes of a page of the guests that this folder models. */
export const PAGE_BYTES = 4096;

/** One run; reused by the cursor that fills it. */
export interface PageRun {
  iovaPage: number;
  physPage: number;
  pages: number;
}

/** Hands out runs in order of their I/O virtual address. */
export interface RunCursor {
  /** Fills `run` with the next run; false, and `run` untouched, when there is none. */
  next(run: PageRun): boolean;
}

/** A cursor over a list of runs, as they are: neighbours are not joined. */
export function runsOf(list: readonly Readonly<PageRun>[]): RunCursor {
  let index = 0;
  return {
    next(run) {
      const item = list[index];
      if (item === undefined) return false;
      index++;
      run.iovaPage = item.iovaPage;
      run.physPage = item.physPage;
      run.pages = item.pages;
      return true;
    },
  };
}
