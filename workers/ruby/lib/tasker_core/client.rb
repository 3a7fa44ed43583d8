# frozen_string_literal: true

require "json"

module TaskerCore
  # Tasks from Ruby.
  #
  #   client = TaskerCore::Client.new
  #   task = client.create_task("order", namespace: "shop", context: { amount: 12.5 })
  #   client.wait_task(task.task_uuid).status   # => "complete"
  #
  # For any number of threads. Records are those of the HTTP API (docs/http-api.md). Each method raises
  # Errors::ClientError where the server refuses or none answers.
  class Client
    # A call is not interrupted, so a long wait is many short ones: signals are heard in between.
    SLICE_S = 1.0
    private_constant :SLICE_S

    attr_reader :initiator, :source_system

    # Of the server at `url`; without it, the one of this process's worker or of the configuration
    # (`TASKER_ORCHESTRATION_URL`). `initiator` and `source_system` are said of every task that is created.
    def initialize(url = nil, initiator: "tasker-core-ruby", source_system: "tasker-core")
      url ||= Worker::Bootstrap.worker.orchestration_url if Worker::Bootstrap.running?
      @native = Native::Client.new(url)
      @initiator = initiator
      @source_system = source_system
    end

    # Creates a task. `version: nil` is the template's newest. `more` are other keys of the request: `priority`, `tags`,
    # `idempotency_key`, `correlation_id`, … A lost connection is tried again where there is an `idempotency_key`.
    def create_task(name, **more)
      call("create_task", task_request(name, **more))
    end

    # Creates up to 1,000 tasks, each made by #task_request. Each answer has `status` and `task` or `error`.
    def create_tasks(requests)
      call("create_tasks", tasks: requests)
    end

    # What #create_task would send, for #create_tasks.
    def task_request(name, namespace: "default", context: {}, version: "1.0.0", reason: "Task requested", **more)
      { name:, namespace:, version:, context:, initiator:, source_system:, reason:, **more }.compact
    end

    # The task with its steps.
    def get_task(task_uuid)
      call("get_task", task_uuid:)
    end

    # One page of tasks, newest first: `tasks` and `pagination`, whose `next_cursor` is the next page's `cursor`.
    # Filters are `namespace`, `name`, `status`, `initiator`, `source_system`, `tag`, `correlation_id`,
    # `created_after`, `created_before`.
    def list_tasks(limit: 50, cursor: nil, **filters)
      call("list_tasks", limit:, cursor:, **filters)
    end

    # Cancels the task; no step of it is begun after this.
    def cancel_task(task_uuid)
      call("cancel_task", task_uuid:)
    end

    # Waits until the task has ended or is blocked by failures, at most this many seconds; answers the task as it is
    # then.
    def wait_task(task_uuid, timeout: nil)
      ending = timeout ? now + timeout : Float::INFINITY
      loop do
        left = (ending - now).clamp(0.0, SLICE_S)
        seen = call("wait_task", task_uuid:, timeout_ms: (left * 1000).to_i)
        return seen["task"] if seen["settled"] || now >= ending
      end
    end

    # The steps of the task.
    def list_task_steps(task_uuid)
      call("list_task_steps", task_uuid:)
    end

    # One step of the task.
    def get_step(task_uuid, step_uuid)
      call("get_step", task_uuid:, step_uuid:)
    end

    # Every attempt of the step that ended, with its result or error.
    def get_step_audit_history(task_uuid, step_uuid)
      call("get_step_audit_history", task_uuid:, step_uuid:)
    end

    # Every transition of the task so far.
    def get_task_history(task_uuid)
      call("get_task_history", task_uuid:)
    end

    # For each step that has not ended well, why.
    def explain(task_uuid)
      call("explain", task_uuid:)
    end

    # One page of registered templates: `templates` and `pagination`.
    def list_templates(namespace: nil, **query)
      call("list_templates", namespace:, **query)
    end

    # How the server is: `status` is `healthy`, `degraded` or `unhealthy`.
    def health_check
      call("health_check")
    end

    private

    def call(operation, arguments = {})
      message = Portable.encode("the request", { operation:, arguments: arguments.compact })
      said = JSON.parse(@native.call(message), object_class: Record, max_nesting: false)
      error = said["error"]
      raise Errors::ClientError.new(**error.transform_keys(&:to_sym)) if error

      said["answer"]
    rescue Portable::NotPortable => e
      raise Errors::ClientError.new(code: "USAGE", message: e.message)
    end

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
