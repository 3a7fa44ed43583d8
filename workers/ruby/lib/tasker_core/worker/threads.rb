# frozen_string_literal: true

module TaskerCore
  class Worker
    # As many threads as work needs at once.
    #
    # What other threads do to one of them (`Thread#raise`, `Thread#kill`, the end of the program) reaches it where the work
    # lets it, and while it is idle. One that ends so is made up for.
    class Threads
      def initialize(most)
        @most = most
        @work = []
        @lock = Mutex.new
        @ready = ConditionVariable.new
        @idle = 0
        @count = 0
        @closed = false
      end

      # Runs the block on a thread; false where all that there may be are busy. The block is called with everything from
      # other threads held back.
      def run(&work)
        @lock.synchronize do
          if @idle > @work.size
            @work << work
            @ready.signal
            return true
          end
          return false if @count >= @most

          start(work)
          true
        end
      end

      # How many there are.
      def count
        @lock.synchronize { @count }
      end

      # Lets each end once it has nothing to do.
      def close
        @lock.synchronize do
          @closed = true
          @ready.broadcast
        end
      end

      private

      # With the lock.
      def start(work)
        Thread.handle_interrupt(Object => :never) do
          thread = Thread.new { serve(work) }
          @count += 1
          thread.name = "tasker-handler"
          thread.report_on_exception = false
        end
      end

      # Held back from the first line on: a thread begins with the mask of the one that made it.
      def serve(work)
        while work
          work.call
          work = next_work
        end
      ensure
        ended
      end

      def next_work
        @lock.synchronize do
          return if @closed

          @idle += 1
          begin
            Thread.handle_interrupt(Object => :on_blocking) { @ready.wait(@lock) } while @work.empty? && !@closed
          ensure
            @idle -= 1
          end
          @work.shift
        end
      end

      # What was meant for this thread goes to another one.
      def ended
        @lock.synchronize do
          @count -= 1
          start(@work.shift) if @work.size > @idle
        end
      end
    end
  end
end
