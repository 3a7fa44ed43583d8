# frozen_string_literal: true

module TaskerCore
  class Worker
    # The worker of this process.
    module Bootstrap
      LOCK = Mutex.new
      private_constant :LOCK

      class << self
        # The one that was started last.
        attr_reader :worker

        # Starts it for what the registry has; where that is empty, for every handler that the program has defined.
        # `variables` are those of the configuration, and win over the environment's.
        def start!(registry: Registry::HandlerRegistry.instance, variables: {})
          LOCK.synchronize do
            if running?
              raise Errors::WorkerError.new("already_running", "the worker of this process is running")
            end

            registry.bootstrap_handlers! if registry.registered_handlers.empty?
            @worker = Worker.new(registry: registry, variables: variables)
          end
        end

        # Stops it, where there is one: claims nothing more and lets handlers end for `grace` seconds, the
        # configuration's without it.
        def stop!(grace = nil)
          LOCK.synchronize do
            @worker&.stop(grace)
            @worker = nil
          end
        end

        # Whether it runs.
        def running?
          !@worker.nil? && @worker.running?
        end

        # What it does just now; nil where there is none.
        def status
          @worker&.status
        end
      end
    end

    # Start-up code of other versions may name these two. Steps are fetched and events published by the worker itself, so
    # they only say whether it runs.
    class Shim
      class << self
        def instance
          @instance ||= new
        end
      end

      # Starts the worker, where it does not run.
      def start!
        Bootstrap.start! unless active?
        self
      end

      # Leaves the worker to Bootstrap.stop!, which lets its handlers end.
      def stop!
        self
      end

      # Whether the worker runs.
      def active?
        Bootstrap.running?
      end
    end

    # See Shim.
    class EventPoller < Shim; end

    # See Shim.
    class EventBridge < Shim; end
  end
end
