# frozen_string_literal: true

module TaskerCore
  class Worker
    # As many threads as work needs at once, and no more: one is woken where those that work can't go on.
    #
    # One at a time is on its way. It comes to run once a thread that works lets it, by waiting for something or by
    # having worked for long; until then the one that works takes what comes next. So work that is quick is done by one
    # thread, without a change of threads, and work that waits never keeps other work waiting. Of those that are idle
    # the last one is woken, so that the first ones, which nothing needs any more, end.
    #
    # What other threads do to one of them (`Thread#raise`, `Thread#kill`, the end of the program) reaches it where the
    # work lets it, and while it is idle. One that ends so is made up for.
    class Threads
      # Seconds that an idle thread is kept beyond the number of those that are.
      KEEP_S = 1.0
      private_constant :KEEP_S

      # The block is called after a #round: by a thread on its way at once, by one that works when nothing else waits.
      def initialize(most, keep: 0, &round)
        @most = most
        @keep = keep
        @round = round
        @work = []
        @lock = Mutex.new
        # Where those wait that have nothing to do.
        @idle = []
        @count = 0
        @is_round_wanted = @is_on_its_way = @closed = false
      end

      # Calls the block on a thread; false where all that there may be are busy. The block is called with everything
      # from other threads held back.
      def run(&work)
        @lock.synchronize do
          return false if @work.size + busy >= @most

          @work << work
          wake
          true
        rescue ThreadError, NoMemoryError
          @work.pop
          raise
        end
      end

      # Wants the round; once, however often it is wanted before it is made.
      def round
        @lock.synchronize do
          @is_round_wanted = true
          wake
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
          @idle.shift.signal until @idle.empty?
        end
      end

      private

      def busy
        @count - @idle.size - (@is_on_its_way ? 1 : 0)
      end

      # With the lock.
      def wake
        return if @is_on_its_way || (@work.empty? && !@is_round_wanted)

        if @idle.any?
          @is_on_its_way = true
          @idle.pop.signal
        elsif @count < @most
          start
          @is_on_its_way = true
        end
      rescue ThreadError, NoMemoryError
        # Those that there are come to it later.
        raise if @count.zero?
      end

      # With the lock.
      def start
        Thread.handle_interrupt(Object => :never) do
          thread = Thread.new { serve }
          @count += 1
          thread.name = "tasker-handler"
        end
      end

      # Held back from the first line on: a thread begins with the mask of the one that made it.
      def serve
        Thread.current.report_on_exception = false
        work = @lock.synchronize { first_work }
        while work
          work.call
          work = @lock.synchronize { next_work || awaited_work }
        end
      ensure
        @lock.synchronize do
          @count -= 1 unless work == false
          wake
        end
      end

      # For a thread that comes to help. With the lock, as what follows.
      def first_work
        @is_on_its_way = false
        taken(wanted_round || @work.shift)
      end

      def next_work
        taken(@work.shift || wanted_round)
      end

      def taken(work)
        wake if work
        work
      end

      def wanted_round
        return unless @is_round_wanted

        @is_round_wanted = false
        @round
      end

      # Nothing, once it is closed; false for a thread that was kept long enough, and is no longer counted.
      def awaited_work
        until @closed
          if woken?
            work = first_work
            return work if work
          elsif @count > @keep
            @count -= 1
            return false
          end
        end
      end

      def woken?
        place = ConditionVariable.new
        @idle.push(place)
        Thread.handle_interrupt(Object => :on_blocking) { place.wait(@lock, @count > @keep ? KEEP_S : nil) }
        !@idle.include?(place)
      ensure
        # Another one has to be woken in place of one that was killed on its way.
        @is_on_its_way = false unless @idle.delete(place)
      end
    end
  end
end
